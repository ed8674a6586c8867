#[path = "facade/mod.rs"]
mod facade;

resnet_macros::zoo! {
    crate = crate::facade;
    pub mod wrong = "ui/wrong_spec.yaml";
}

/// The network's items exist, so that nothing here is an error of its own.
fn main() {
    let _ = wrong::Wrong::new(10, facade::candle_nn::VarBuilder);
    let _ = wrong::CARD.params;
    let _ = wrong::ENTRY.build;
}
