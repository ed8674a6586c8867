resnet_macros::zoo! {
    pub fn resnet34() = "resnet34.yaml";
}

fn main() {}
