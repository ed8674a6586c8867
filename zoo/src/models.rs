//! The zoo: every architecture of this package, compiled.

pub use crate::model::Entry;

crate::zoo! {
    crate = crate;
    pub mod cifar_resnet20 = "cifar_resnet20.yaml";
    pub mod cifar_resnet32 = "cifar_resnet32.yaml";
    pub mod cifar_resnet44 = "cifar_resnet44.yaml";
    pub mod cifar_resnet56 = "cifar_resnet56.yaml";
    pub mod cifar_resnet110 = "cifar_resnet110.yaml";
    pub mod ecaresnet50t = "ecaresnet50t.yaml";
    pub mod mc3_18 = "mc3_18.yaml";
    pub mod r2plus1d_18 = "r2plus1d_18.yaml";
    pub mod r3d_18 = "r3d_18.yaml";
    pub mod resnet18 = "resnet18.yaml";
    pub mod resnet26t = "resnet26t.yaml";
    pub mod resnet34 = "resnet34.yaml";
    pub mod resnet50 = "resnet50.yaml";
    pub mod resnet50_fpn = "resnet50_fpn.yaml";
    pub mod resnet50d = "resnet50d.yaml";
    pub mod resnet101 = "resnet101.yaml";
    pub mod resnet152 = "resnet152.yaml";
    pub mod resnext50_32x4d = "resnext50_32x4d.yaml";
    pub mod resnext101_32x8d = "resnext101_32x8d.yaml";
    pub mod seresnet50 = "seresnet50.yaml";
    pub mod wide_resnet50_2 = "wide_resnet50_2.yaml";
}

/// Every network, as people list them: the paper's, their descendants, video, CIFAR.
pub fn all() -> &'static [Entry] {
    &[
        resnet18::ENTRY,
        resnet34::ENTRY,
        resnet50::ENTRY,
        resnet101::ENTRY,
        resnet152::ENTRY,
        resnext50_32x4d::ENTRY,
        resnext101_32x8d::ENTRY,
        wide_resnet50_2::ENTRY,
        resnet26t::ENTRY,
        resnet50d::ENTRY,
        seresnet50::ENTRY,
        ecaresnet50t::ENTRY,
        resnet50_fpn::ENTRY,
        r3d_18::ENTRY,
        mc3_18::ENTRY,
        r2plus1d_18::ENTRY,
        cifar_resnet20::ENTRY,
        cifar_resnet32::ENTRY,
        cifar_resnet44::ENTRY,
        cifar_resnet56::ENTRY,
        cifar_resnet110::ENTRY,
    ]
}

/// The network of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    all().iter().find(|entry| entry.card.name == name)
}
