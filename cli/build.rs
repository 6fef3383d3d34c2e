//! Links the program small.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TRAINYARD_OLD_GLIBC");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let target = |name: &str| variable(&format!("CARGO_CFG_TARGET_{name}"));
    // Rust brings its own linker for this platform. Whoever chose another one has to do without.
    let is_own = !variable("CARGO_ENCODED_RUSTFLAGS").contains("link") && variable("RUSTC_LINKER").is_empty();
    let is_known = target("ARCH") == "x86_64" && target("OS") == "linux" && target("ENV") == "gnu";
    if !is_known || !is_own || variable("PROFILE") != "release" {
        return;
    }
    // One copy of functions that are the same: types have many such.
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    // Two million bytes of places to relocate become a few thousand, where the C library can read them: from 2.36 on. A program for
    // images with an older one is built with TRAINYARD_OLD_GLIBC=1.
    if variable("TRAINYARD_OLD_GLIBC").is_empty() && libc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's C library: `glibc 2.36`.
fn libc() -> Option<(u32, u32)> {
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(asked.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
