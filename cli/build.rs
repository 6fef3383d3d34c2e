//! Links the program small.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let target = |name: &str| variable(&format!("CARGO_CFG_TARGET_{name}"));
    // Rust brings its own linker for this platform. Whoever chose another one has to do without.
    let is_own = !variable("CARGO_ENCODED_RUSTFLAGS").contains("link") && variable("RUSTC_LINKER").is_empty();
    let is_known = target("ARCH") == "x86_64" && target("OS") == "linux" && target("ENV") == "gnu";
    if is_known && is_own && variable("PROFILE") == "release" {
        // One copy of functions that are the same: types have many such.
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
