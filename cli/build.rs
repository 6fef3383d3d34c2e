//! Links the program.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Rust brings its own linker for this platform, which can keep one copy of functions that are the same: types have many such.
    // Whoever chose another linker has to do without.
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_own = !flags.contains("link");
    if target("ARCH") == "x86_64" && target("OS") == "linux" && target("ENV") == "gnu" && is_own {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
