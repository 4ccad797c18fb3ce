//! `proto/csi.proto` is the published specification, apart from comments and order.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use protox::prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, FileDescriptor, MessageDescriptor};

/// Descriptors of a `csi.proto` in `directory`.
fn compile(directory: &Path) -> FileDescriptor {
    let mut compiler = protox::Compiler::new([directory]).unwrap();
    compiler.include_imports(true).open_file("csi.proto").unwrap();
    let pool: DescriptorPool = compiler.descriptor_pool();
    pool.get_file_by_name("csi.proto").unwrap()
}

/// The directory of the specification's module that `e2e/spec/go.mod` pins. Downloads the module if necessary.
fn published() -> PathBuf {
    const MODULE: &str = "github.com/container-storage-interface/spec";
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/spec"))
        .output()
        .expect("this test needs `go` to download the specification's module, and `go` cannot be run; install Go");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "go mod download {MODULE}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["Version"], "v1.13.0", "the version that the driver speaks");
    answer["Dir"].as_str().unwrap().into()
}

/// The options that are set, in a fixed order. Custom options have their full name.
fn options(message: &DynamicMessage) -> BTreeSet<String> {
    let fields = message.fields().map(|(field, value)| format!("{}={value}", field.name()));
    let extensions = message.extensions().map(|(extension, value)| format!("{}={value}", extension.full_name()));
    fields.chain(extensions).collect()
}

fn describe_enum(item: &EnumDescriptor, facts: &mut BTreeSet<String>) {
    let name = item.full_name();
    let proto = item.enum_descriptor_proto();
    facts.insert(format!("enum {name} {:?}", options(&item.options())));
    facts.extend(proto.reserved_range.iter().map(|range| format!("enum {name} reserved {range:?}")));
    facts.extend(proto.reserved_name.iter().map(|reserved| format!("enum {name} reserved {reserved}")));
    for value in item.values() {
        facts.insert(format!("enum {name} {} = {} {:?}", value.name(), value.number(), options(&value.options())));
    }
}

fn describe_message(message: &MessageDescriptor, facts: &mut BTreeSet<String>) {
    let name = message.full_name();
    let proto = message.descriptor_proto();
    facts.insert(format!("message {name} {:?}", options(&message.options())));
    facts.extend(proto.reserved_range.iter().map(|range| format!("message {name} reserved {range:?}")));
    facts.extend(proto.reserved_name.iter().map(|reserved| format!("message {name} reserved {reserved}")));
    facts.extend(
        message.oneofs().map(|oneof| format!("message {name} oneof {} {:?}", oneof.name(), options(&oneof.options()))),
    );
    for field in message.fields() {
        facts.insert(format!(
            "message {name} {} = {} {:?} {:?} {:?} in {:?} as {} optional {} {:?}",
            field.name(),
            field.number(),
            field.cardinality(),
            field.kind(),
            field.is_packed(),
            field.containing_oneof().map(|oneof| oneof.name().to_owned()),
            field.json_name(),
            field.supports_presence(),
            options(&field.options()),
        ));
    }
    message.child_enums().for_each(|item| describe_enum(&item, facts));
    message.child_messages().for_each(|child| describe_message(&child, facts));
}

/// The declarations of a file, one per line.
fn describe(file: &FileDescriptor) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    facts.insert(format!("file {} {:?} {:?}", file.package_name(), file.syntax(), options(&file.options())));
    facts.extend(file.dependencies().map(|dependency| format!("import {}", dependency.name())));
    for extension in file.extensions() {
        facts.insert(format!(
            "extension of {} {} = {} {:?} {:?}",
            extension.containing_message().full_name(),
            extension.full_name(),
            extension.number(),
            extension.cardinality(),
            extension.kind(),
        ));
    }
    for service in file.services() {
        facts.insert(format!("service {} {:?}", service.full_name(), options(&service.options())));
        for method in service.methods() {
            facts.insert(format!(
                "method {}({}{}) -> {}{} {:?}",
                method.full_name(),
                if method.is_client_streaming() { "stream " } else { "" },
                method.input().full_name(),
                if method.is_server_streaming() { "stream " } else { "" },
                method.output().full_name(),
                options(&method.options()),
            ));
        }
    }
    file.enums().for_each(|item| describe_enum(&item, &mut facts));
    file.messages().for_each(|message| describe_message(&message, &mut facts));
    facts
}

#[test]
fn the_protocol_file_is_the_published_specification() {
    let ours = describe(&compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")));
    let published = describe(&compile(&published()));
    assert!(published.len() > 500, "only {} declarations of the specification were read", published.len());
    assert!(published.iter().any(|fact| fact.contains("csi_secret=true")), "the specification's options were not read");
    let missing: Vec<_> = published.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&published).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "only in the specification: {missing:#?}\nonly in proto/csi.proto: {extra:#?}"
    );
}
