//! The wire is only ever added to: what has been committed to `proto/hadal/released.txt` stays as it is, since peers of
//! another release, and clients, rely on it.
//!
//! The file has one line for each message, field, enum, value, service and method, with all that a peer depends on. A
//! change of any of it is a missing line; an addition is a new one. `UPDATE=1 cargo test -p hadal-proto` adds the new
//! lines and never removes one: to take back what no release has had, remove its line by hand.

mod lines;

use std::collections::BTreeSet;
use std::path::PathBuf;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use lines::lines;

const HEADER: &str =
    "# The wire as it has been committed; see proto/src/compatibility.rs. Lines are added, never changed.";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("hadal/released.txt")
}

fn current() -> FileDescriptorSet {
    FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap()
}

fn released() -> BTreeSet<String> {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// What peers rely on and would not find.
fn broken(released: &BTreeSet<String>, current: &FileDescriptorSet) -> Vec<String> {
    let current = lines(current);
    released.iter().filter(|line| !current.contains(*line)).cloned().collect()
}

#[test]
fn nothing_released_has_changed() {
    let broken = broken(&released(), &current());
    assert!(
        broken.is_empty(),
        "peers rely on what was removed, renumbered, renamed or retyped; add a new field instead:\n{}",
        broken.join("\n")
    );
}

#[test]
fn the_committed_descriptor_lists_everything() {
    let released = released();
    let all: BTreeSet<String> = released.union(&lines(&current())).cloned().collect();
    if std::env::var_os("UPDATE").is_some() {
        let text: String =
            std::iter::once(HEADER).chain(all.iter().map(String::as_str)).flat_map(|l| [l, "\n"]).collect();
        std::fs::write(path(), text).unwrap();
        return;
    }
    let new: Vec<&String> = all.difference(&released).collect();
    assert!(
        new.is_empty(),
        "new on the wire; add it to the descriptor with UPDATE=1 cargo test -p hadal-proto: {new:#?}"
    );
}

fn message<'a>(set: &'a mut FileDescriptorSet, package: &str, name: &str) -> &'a mut DescriptorProto {
    let file = set.file.iter_mut().find(|file| file.package() == package).unwrap();
    file.message_type.iter_mut().find(|message| message.name() == name).unwrap()
}

fn field<'a>(set: &'a mut FileDescriptorSet, message_name: &str, name: &str) -> &'a mut FieldDescriptorProto {
    let message = message(set, "hadal.cluster.v1", message_name);
    message.field.iter_mut().find(|field| field.name() == name).unwrap()
}

/// A change of the descriptors.
type Mutation = fn(&mut FileDescriptorSet);

#[test]
fn every_change_of_what_exists_is_found() {
    let mutations: &[(&str, Mutation)] = &[
        ("a field removed", |s| drop(message(s, "hadal.cluster.v1", "Heartbeat").field.remove(2))),
        ("a field renumbered", |s| field(s, "Heartbeat", "draining").number = Some(50)),
        ("a field renamed", |s| field(s, "Heartbeat", "draining").name = Some("drains".into())),
        ("a field retyped", |s| field(s, "Heartbeat", "sequence").set_type(Type::Sint64)),
        ("a field of another message", |s| {
            field(s, "Heartbeat", "ledger").type_name = Some(".hadal.cluster.v1.Leave".into())
        }),
        ("a field repeated", |s| field(s, "Heartbeat", "sequence").set_label(Label::Repeated)),
        ("a field no longer optional", |s| {
            let field = field(s, "Placement", "prefill");
            (field.proto3_optional, field.oneof_index) = (None, None);
        }),
        ("a field out of its oneof", |s| field(s, "WorkerReport", "leave").oneof_index = None),
        ("a oneof renamed", |s| {
            message(s, "hadal.cluster.v1", "WorkerReport").oneof_decl[0].name = Some("kind".into())
        }),
        ("two fields swapped", |s| {
            field(s, "StepSample", "prefill_tokens").number = Some(2);
            field(s, "StepSample", "decode_tokens").number = Some(1);
        }),
        ("a message removed", |s| s.file.iter_mut().for_each(|f| f.message_type.retain(|m| m.name() != "Leave"))),
        ("a message renamed", |s| message(s, "hadal.v1", "Usage").name = Some("Use".into())),
        ("a nested message renamed", |s| {
            message(s, "hadal.cluster.v1", "Layer").nested_type[0].name = Some("R".into())
        }),
        ("an enum's value removed", |s| drop(message(s, "hadal.cluster.v1", "Refusal").enum_type[0].value.pop())),
        ("an enum's value renumbered", |s| {
            message(s, "hadal.cluster.v1", "Error").enum_type[0].value[1].number = Some(77);
        }),
        ("an enum removed", |s| s.file.iter_mut().for_each(|f| f.enum_type.clear())),
        ("a method removed", |s| drop(s.file[0].service[0].method.pop())),
        ("a method renamed", |s| s.file[0].service[0].method[0].name = Some("Make".into())),
        ("a method's answer changed", |s| s.file[0].service[0].method[0].output_type = Some(".hadal.v1.Usage".into())),
        ("a method no longer streaming", |s| s.file[0].service[0].method[0].server_streaming = Some(false)),
        ("a service removed", |s| drop(s.file[0].service.pop())),
        ("a package renamed", |s| s.file[0].package = Some("hadal.v2".into())),
    ];
    let released = lines(&current());
    for (what, mutate) in mutations {
        let mut changed = current();
        mutate(&mut changed);
        assert!(!broken(&released, &changed).is_empty(), "{what} was not noticed");
    }
}

#[test]
fn additions_break_nothing() {
    let released = lines(&current());
    let mutations: &[(&str, Mutation)] = &[
        ("a field", |s| {
            let mut new = field(s, "Heartbeat", "draining").clone();
            (new.name, new.number) = (Some("new".into()), Some(99));
            message(s, "hadal.cluster.v1", "Heartbeat").field.push(new);
        }),
        ("a message", |s| {
            s.file[0].message_type.push(DescriptorProto { name: Some("New".into()), ..DescriptorProto::default() });
        }),
        ("an enum's value", |s| {
            let values = &mut message(s, "hadal.cluster.v1", "Error").enum_type[0].value;
            let mut new = values[0].clone();
            (new.name, new.number) = (Some("KIND_NEW".into()), Some(99));
            values.push(new);
        }),
        ("a method", |s| {
            let mut new = s.file[0].service[0].method[0].clone();
            new.name = Some("New".into());
            s.file[0].service[0].method.push(new);
        }),
        ("another order", |s| s.file.iter_mut().for_each(|f| f.message_type.reverse())),
    ];
    for (what, mutate) in mutations {
        let mut changed = current();
        mutate(&mut changed);
        assert_eq!(broken(&released, &changed), [""; 0], "{what}");
    }
}
