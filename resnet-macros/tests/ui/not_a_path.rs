resnet_macros::zoo! {
    pub mod resnet34 = resnet34;
}

fn main() {}
