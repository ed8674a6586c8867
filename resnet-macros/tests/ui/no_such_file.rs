#[path = "facade/mod.rs"]
mod facade;

resnet_macros::zoo! {
    crate = crate::facade;
    mod nowhere = "ui/no/such/file.yaml";
}

fn main() {}
