//! What templates of published models rely on.

use serde_json::json;

use super::*;

fn render(source: &str, variables: Value) -> Result<String, Failure> {
    let template = Template::new(source.into(), Map::new()).unwrap();
    let options = ChatOptions {
        variables: variables.as_object().cloned().unwrap_or_default(),
        unix_time_s: 1_764_000_000,
        ..Default::default()
    };
    template.render(&[ChatMessage::new("user", "héllo <b>")], &options)
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let source =
        "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(render(source, json!({})).unwrap(), "héllo <b>\nend");
}

#[test]
fn python_methods_and_values_print_as_in_python() {
    let source =
        "{{ ' a '.strip() }} {{ 'a,b'.split(',')[1] }} {{ none }} {{ true }} {{ {'k': 1}.items()|list|length }}";
    assert_eq!(render(source, json!({})).unwrap(), "a b None True 1");
}

#[test]
fn json_is_that_of_json_dumps() {
    let value = json!({"v": {"b": [1, "<é>"], "a": null}});
    assert_eq!(render("{{ v|tojson }}", value.clone()).unwrap(), r#"{"b": [1, "<é>"], "a": null}"#);
    let indented = "{\n  \"b\": [\n    1,\n    \"<é>\"\n  ],\n  \"a\": null\n}";
    assert_eq!(render("{{ v|tojson(indent=2) }}", value).unwrap(), indented);
}

#[test]
fn a_refusal_of_the_template_reaches_the_client_with_its_line() {
    let source = "{{ bos_token }}\n{{ raise_exception('roles must alternate') }}";
    let failure = render(source, json!({})).unwrap_err();
    assert_eq!(failure.param.as_deref(), Some("messages"));
    let expected = "the model's chat template refuses the conversation: roles must alternate (line 2 of the template)";
    assert_eq!(failure.message, expected);
}

#[test]
fn dates_are_of_the_time_given() {
    let source = "{{ strftime_now('%d %b %Y, %A %H:%M:%S %B %m %a %% %q') }}";
    assert_eq!(render(source, json!({})).unwrap(), "24 Nov 2025, Monday 16:00:00 November 11 Mon % %q");
}

#[test]
fn variables_of_the_request_are_seen_and_messages_are_not_replaced() {
    let source = "{{ thinking is defined }} {{ tools is none }} {{ messages|length }} {% for i in [1, 2] %}{% break %}{% endfor %}";
    assert_eq!(render(source, json!({"thinking": true, "messages": []})).unwrap(), "True True 1 ");
}

#[test]
fn a_list_of_templates_has_a_default() {
    let list = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
    assert_eq!(source(None, &list).unwrap().as_deref(), Some("d"));
    assert_eq!(source(Some(b"file"), &list).unwrap().as_deref(), Some("file"));
    assert!(source(None, &json!({"chat_template": []})).unwrap_err().contains("default"));
    assert_eq!(source(None, &Value::Null).unwrap(), None);
}
