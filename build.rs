//! Generates the wire types from `proto/`. protox compiles the files, so that no protoc is needed.

const PROTOS: [&str; 2] = ["proto/csi.proto", "proto/pluginregistration.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // Debug of a request would print its secrets: the messages that carry them get none.
    let secret: Vec<String> = descriptors
        .file
        .iter()
        .flat_map(|file| file.message_type.iter().map(|message| (file.package(), message)))
        .filter(|(_, message)| message.field.iter().any(|field| field.name() == "secrets"))
        .map(|(package, message)| format!(".{package}.{}", message.name()))
        .collect();
    tonic_prost_build::configure()
        .skip_debug(secret)
        // An RPC that the driver does not serve answers UNIMPLEMENTED by itself.
        .generate_default_stubs(true)
        .compile_fds(descriptors)?;
    for file in PROTOS {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
