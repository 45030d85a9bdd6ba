//! Compiles `proto/` to Rust (protox parses the files, so no `protoc` needs to be installed), and tells the linker of a
//! release build which functions lie beside each other.

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "tidegate/v1/account.proto",
    "tidegate/v1/credential.proto",
    "tidegate/v1/gateway.proto",
    "tidegate/v1/session.proto",
    "tidegate/v1/upload.proto",
];

/// The symbols of the functions that a daemon runs; written by `benches/hot-functions`.
const HOT_FUNCTIONS: &str = "deploy/link/hot-functions.txt";
/// Set to `off` where the linker knows no `INSERT` in a linker script (mold): a daemon then takes some 10 MiB more.
const ORDER_VARIABLE: &str = "TIDEGATE_LINK_ORDER";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    put_hot_functions_together()?;
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("tidegate_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    // The codec asks a message for its name.
    config.enable_type_names();
    tonic_prost_build::configure()
        // Chunks of photos are passed on without a copy.
        .bytes(".tidegate.v1.UploadRequest.chunk")
        .codec_path("crate::api::strict::StrictCodec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// The kernel maps a program in pieces of 64 KiB around what runs. What a daemon runs is a quarter of the program but lies
/// all over it, so most of it would be mapped: lying together it takes its own size only.
fn put_hot_functions_together() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={HOT_FUNCTIONS}");
    println!("cargo:rerun-if-env-changed={ORDER_VARIABLE}");
    let is_off = env::var(ORDER_VARIABLE).is_ok_and(|value| value == "off");
    let is_gnu_linux = env::var("CARGO_CFG_TARGET_OS")? == "linux" && env::var("CARGO_CFG_TARGET_ENV")? == "gnu";
    if is_gnu_linux && env::var("PROFILE")? == "release" && !is_off {
        let script = PathBuf::from(env::var("OUT_DIR")?).join("hot-functions.ld");
        std::fs::write(&script, linker_script(&std::fs::read_to_string(HOT_FUNCTIONS)?))?;
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
    Ok(())
}

/// First the functions as they were when the list was written, in its order. Then whatever bears their names with another
/// hash: the hash is of a function's types and of the versions of its dependencies, so a list that has aged is still of use.
fn linker_script(hot_functions: &str) -> String {
    /// The linker keeps the order of its rules, but not within one; every rule costs it a look at all functions.
    const SYMBOLS_PER_RULE: usize = 64;
    let symbols: Vec<&str> = hot_functions.lines().filter(|line| !line.starts_with('#')).collect();
    let mut script = "SECTIONS { .text.hot_functions : {\n".to_owned();
    for some in symbols.chunks(SYMBOLS_PER_RULE) {
        let sections = some.iter().map(|symbol| format!(".text.{symbol} .text.unlikely.{symbol}\n"));
        script += &format!("*(\n{})\n", sections.collect::<String>());
    }
    let namesakes: BTreeSet<&str> = symbols.into_iter().filter_map(without_hash).collect();
    let sections = namesakes.iter().map(|name| format!(".text.{name}17h*\n"));
    script + &format!("*(\n{})\n}} }}\nINSERT BEFORE .text;\n", sections.collect::<String>())
}

/// `None` where a symbol has no hash at its end.
fn without_hash(symbol: &str) -> Option<&str> {
    const HASH_LEN: usize = "17h0123456789abcdefE".len();
    let symbol = symbol.trim_end_matches(".llvm.*");
    let (name, hash) = symbol.split_at_checked(symbol.len().checked_sub(HASH_LEN)?)?;
    (hash.starts_with("17h") && hash.ends_with('E')).then_some(name)
}
