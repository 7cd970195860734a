//! Descriptors as lines of text, one for each thing that a peer may depend on.

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
};

/// All that Hadal's packages define.
pub(super) fn lines(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("hadal.")) {
        let package = file.package();
        file.message_type.iter().for_each(|m| message(package, m, &mut lines));
        file.enum_type.iter().for_each(|e| enumeration(package, e, &mut lines));
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            lines.insert(format!("service {name}"));
            lines.extend(service.method.iter().map(|m| method(&name, m)));
        }
    }
    lines
}

fn message(scope: &str, message_type: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message_type.name());
    lines.insert(format!("message {name}"));
    lines.extend(message_type.field.iter().map(|f| field(&name, message_type, f)));
    message_type.nested_type.iter().for_each(|m| message(&name, m, lines));
    message_type.enum_type.iter().for_each(|e| enumeration(&name, e, lines));
}

fn field(scope: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let oneof = field.oneof_index.and_then(|index| message.oneof_decl.get(index as usize));
    let rule = match (field.label(), field.proto3_optional(), oneof) {
        (Label::Repeated, ..) => "repeated".to_owned(),
        (_, true, _) => "optional".to_owned(),
        (_, _, Some(oneof)) => format!("oneof {}", oneof.name()),
        _ => "single".to_owned(),
    };
    let name = field.type_name().trim_start_matches('.');
    let kind = if name.is_empty() { field.r#type().as_str_name() } else { name };
    format!("field {scope}.{} = {} {rule} {kind}", field.name(), field.number())
}

fn enumeration(scope: &str, enumeration: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", enumeration.name());
    lines.insert(format!("enum {name}"));
    lines.extend(enumeration.value.iter().map(|v| format!("value {name}.{} = {}", v.name(), v.number())));
}

fn method(scope: &str, method: &MethodDescriptorProto) -> String {
    let stream = |streaming: bool| if streaming { "stream " } else { "" };
    format!(
        "method {scope}.{} ({}{}) returns ({}{})",
        method.name(),
        stream(method.client_streaming()),
        method.input_type().trim_start_matches('.'),
        stream(method.server_streaming()),
        method.output_type().trim_start_matches('.')
    )
}
