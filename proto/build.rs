//! Compiles the `.proto` files with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["hadal/v1/hadal.proto", "hadal/cluster/v1/cluster.proto"];
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".hadal.cluster.v1.FileChunk").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=hadal");
    Ok(())
}
