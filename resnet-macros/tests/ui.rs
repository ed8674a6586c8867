//! What rustc prints of a wrong spec and a wrong `zoo!`.

use std::path::Path;

#[test]
fn mistakes_are_compile_errors_inside_the_spec() {
    // trybuild makes a crate of its own, in whose folder `zoo!` looks for specs.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let folder = target.join("tests/trybuild/resnet-macros/ui");
    std::fs::create_dir_all(&folder).expect("writable");
    for entry in std::fs::read_dir("tests/ui").expect("the cases") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            std::fs::copy(&path, folder.join(path.file_name().expect("a file"))).expect("copied");
        }
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
