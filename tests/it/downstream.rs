//! A crate that depends on `zoo` alone, unoptimised as by cargo's default, compiles its own spec, trains a step and saves.

use std::path::Path;
use std::process::Command;

const MAIN: &str = r#"use zoo::candle_core::{DType, Device, Result, Tensor};
use zoo::candle_nn::{ModuleT, Optimizer, SGD, VarBuilder, VarMap, loss};

zoo::zoo! {
    /// A network of one's own.
    pub mod mine = "specs/mine.yaml";
}

fn main() -> Result<()> {
    let device = Device::Cpu;
    let weights = VarMap::new();
    let network = mine::Mine::new(3, VarBuilder::from_varmap(&weights, DType::F32, &device))?;
    let images = Tensor::randn(0f32, 1., (4, 3, 32, 32), &device)?;
    let labels = Tensor::new(&[0u32, 1, 2, 0], &device)?;
    let before = loss::cross_entropy(&network.forward_t(&images, true)?, &labels)?;
    let first = network.layer1[0].conv1.weight.flatten_all()?.get(0)?.to_scalar::<f32>()?;
    let mut optimizer = SGD::new(weights.all_vars(), 0.05)?;
    optimizer.backward_step(&before)?;
    let after = loss::cross_entropy(&network.forward_t(&images, true)?, &labels)?;
    assert_ne!(first, network.layer1[0].conv1.weight.flatten_all()?.get(0)?.to_scalar::<f32>()?);
    assert!(after.to_scalar::<f32>()? < before.to_scalar::<f32>()?);
    weights.save("mine.safetensors")?;
    let saved: usize = weights.all_vars().iter().map(|var| var.elem_count()).sum();
    println!("{} has {} parameters, saved {saved} values", mine::CARD.name, mine::CARD.params);
    Ok(())
}
"#;

const MINE: &str = "name: mine\nextends: base.yaml\nhead: {classes: 3}\n";

const BASE: &str = "name: base
input: {size: 32}
stem: {3x3: {width: 8}}
block: wide
blocks:
  wide:
    layers:
      conv1: {conv: {kernel: 3, stride: block}}
      bn1: norm
      act1: relu
      conv2: {conv: {kernel: 3, channels: out}}
      bn2: norm
stages:
  - {depth: 1, channels: 8}
  - {depth: 1, channels: 16, stride: 2}
";

#[test]
fn a_crate_of_its_own_trains_and_saves() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join("downstream");
    std::fs::create_dir_all(folder.join("src")).expect("writable");
    std::fs::create_dir_all(folder.join("specs")).expect("writable");
    let manifest = format!(
        "[package]\nname = \"downstream\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nzoo = {{ path = {:?} }}\n\n[workspace]\n\n[profile.dev]\ndebug = false\n",
        workspace.join("zoo")
    );
    let write = |name: &str, text: &str| {
        // Files keep their times where nothing changed, so that a second run builds nothing.
        let path = folder.join(name);
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            std::fs::write(path, text).expect("writable");
        }
    };
    write("Cargo.toml", &manifest);
    write("src/main.rs", MAIN);
    write("specs/mine.yaml", MINE);
    write("specs/base.yaml", BASE);
    let lock = folder.join("Cargo.lock");
    if !lock.exists() {
        std::fs::copy(workspace.join("Cargo.lock"), lock).expect("copied");
    }
    let _ = std::fs::remove_file(folder.join("mine.safetensors"));
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", target.join("downstream-target"))
        .output()
        .expect("cargo runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.starts_with("mine has 5147 parameters"), "{stdout}");
    let saved = candle_core::safetensors::load(folder.join("mine.safetensors"), &candle_core::Device::Cpu);
    let saved = saved.expect("a safetensors file");
    assert_eq!(saved["layer2.0.downsample.0.weight"].dims(), [16, 8, 1, 1]);
    assert!(saved.contains_key("layer1.0.bn1.running_mean"));
}
