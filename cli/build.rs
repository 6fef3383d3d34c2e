//! Links the program small.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Rust brings its own linker for this platform. Whoever chose another one has to do without.
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_own = !flags.contains("link");
    if target("ARCH") != "x86_64" || target("OS") != "linux" || target("ENV") != "gnu" || !is_own {
        return;
    }
    // One copy of functions that are the same: types have many such.
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    // Two million bytes of places to relocate become a few thousand, where the C library can read them: from 2.36 on. It is that of
    // this machine that the program is linked with, so it needs one as new anyway.
    if libc().is_some_and(|version| version >= (2, 36)) {
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
