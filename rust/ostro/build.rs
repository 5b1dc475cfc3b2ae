//! Makes this package's own programs (examples, tests) find libpython when they run.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let config = pyo3_build_config::get();
    // The environment whose package is taken when no other is active.
    if let Some(python) = config.executable() {
        println!("cargo:rustc-env=OSTRO_BUILD_PYTHON={python}");
    }
    let Some(directory) = config.lib_dir() else { return };
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if !config.shared() {
        if system == "linux" {
            // The modules of a static interpreter look for its symbols in the program.
            println!("cargo:rustc-link-arg=-Wl,-export-dynamic");
        }
        return;
    }
    if !Path::new(directory).exists() {
        println!("cargo:warning=there is no {directory}, where libpython should be: set PYO3_PYTHON");
    }
    if system != "windows" {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{directory}");
    }
}
