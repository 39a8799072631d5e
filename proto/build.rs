//! Compiles the contract with a protobuf compiler written in Rust, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "phoenix/common/v1/common.proto",
    "phoenix/common/v1/multiplex.proto",
    "phoenix/planner/v1/planner.proto",
    "phoenix/executor/v1/executor.proto",
    "phoenix/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // Kept beside the generated code for server reflection.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("phoenix.bin"), descriptors.encode_to_vec())?;
    // Messages inside messages are taken out of what was read without a copy.
    let inner = [".phoenix.common.v1.CallStart.message", ".phoenix.common.v1.CalleeFrame.message"];
    inner
        .into_iter()
        .fold(tonic_prost_build::configure(), |build, field| build.bytes(field))
        .codec_path("crate::codec::CompactCodec")
        // Few responses have it, and each would have its size.
        .boxed(".phoenix.planner.v1.PlanAndExecuteResponse.plan")
        .compile_fds(descriptors)?;
    Ok(())
}
