#[path = "facade/mod.rs"]
mod facade;

resnet_macros::zoo! {
    crate = crate::facade;
    mod not_yaml = "ui/not_yaml.yaml";
}

fn main() {
    let _ = not_yaml::NotYaml::new(10, facade::candle_nn::VarBuilder);
}
