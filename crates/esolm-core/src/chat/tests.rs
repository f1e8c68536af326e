//! Templates: what their language gives them, and what is kept from those that mean harm.

use super::*;
use crate::checkpoint::ChatFiles;

fn template(source: &str) -> Result<ChatTemplate, ChatTemplateError> {
    ChatTemplate::new(&ChatFiles {
        template: Some(source.into()),
        tokenizer_config: None,
    })
}

const HOW: Rendering = Rendering {
    add_generation_prompt: true,
    enable_thinking: None,
    now: 951_782_400,
};

fn says(source: &str) -> Result<String, ChatTemplateError> {
    template(source)?.render(&[Message::user("hello")], HOW)
}

/// Each is refused in a sentence of one line and bounded length, and soon.
fn refused(source: &str) -> String {
    let error = says(source).expect_err(&source.chars().take(200).collect::<String>());
    let sentence = error.to_string();
    assert!(
        sentence.len() < 260 && !sentence.contains('\n'),
        "{sentence}"
    );
    sentence
}

#[test]
fn the_language_is_that_of_published_templates() {
    for (source, text) in [
        (r"{{ 'a\'b' ~ '}}' ~ '%}' }}", "a'b}}%}"),
        (
            "{{ {'a': {'b': 1}}['a']['b'] }}{% set a, b = 1, 2 %}{{ a }}{{ b }}",
            "112",
        ),
        (
            "{% for (k, v) in [(1, 2)] %}{{ k }}{{ v }}{% endfor %}{{ (1,)|length }}",
            "121",
        ),
        (
            "{% raw %}{{ [ }}{% endraw %}{# [ {{ #}{{ 7 is divisibleby(7) }}{{ 1 in [1] }}",
            "{{ [ }}TrueTrue",
        ),
        (
            "{{ (1 if [] else 2) }}{{ messages[0]['content'][1:] }}{{ messages[-1].role }}",
            "2ellouser",
        ),
        (
            "{% macro m(a, b=[1]) %}{{ a }}{{ b|length }}{% endmacro %}{{ m(1) }}{{ m(2, b=[]) }}",
            "1120",
        ),
        (
            "{% generation %}a{% endgeneration %}{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
            "a02",
        ),
        (
            "{{ ' x '.strip() ~ 'a,b'.split(',')[-1] ~ 'abc'.startswith('ab') ~ '{:>3}'.format(7) }}",
            "xbTrue  7",
        ),
        (
            "{{ messages|tojson }}{{ [1, 'é<']|tojson(indent=1) }}",
            "[{\"role\": \"user\", \"content\": \"hello\"}][\n 1,\n \"é<\"\n]",
        ),
        (
            "{{ strftime_now('%d %b %Y') }}{{ tools is iterable }}{{ enable_thinking is defined }}",
            "29 Feb 2000FalseFalse",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        (
            "{% if true %}\n  {%- set x = ['a'] + ['b'] -%}\n  {{ x|join('=' * 3 * x|length) }}\n{% endif %}\n",
            "a======b\n",
        ),
    ] {
        assert_eq!(says(source).as_deref(), Ok(text), "{source}");
    }
}

#[test]
fn work_without_end_is_stopped() {
    let doubled = |set: &str| format!("{{% set x = 'ab' %}}{}{{{{ x }}}}", set.repeat(60));
    let raw = "x".repeat(60_000);
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".into(),
        doubled("{% set x = x ~ x %}"),
        doubled("{% set x = x + x %}"),
        doubled("{% set x = [x, x]|join %}"),
        doubled("{% set x = x.replace('a', x) %}"),
        doubled("{% set x %}{{ x }}{{ x }}{% endset %}"),
        format!("{{% for i in range(100000) %}}{raw}{{% endfor %}}"),
        format!("{{% set y %}}{{% for i in range(100000) %}}{raw}{{% endfor %}}{{% endset %}}"),
        "{{ '{:>99999999999}'.format(1) }}".into(),
        "{{ '{:>4999999999}{:>99999999999999999999999}'.format(1, 2) }}".into(),
        "{{ '%99999999999d'|format(1) }}".into(),
        "{{ 'a\nb'|indent(99999999999) }}".into(),
        "{{ [1]|batch(10**12, 1)|list|length }}".into(),
        "{% set n = 10**7 %}{% set x = 'a' * n %}{{ x.strip('b' ~ x) }}".into(),
        "{% set n = 900000 %}{% set x = 'a' * n %}{{ x.strip('b' ~ x) }}{{ x.split('a') }}".into(),
    ] {
        let sentence = refused(&source);
        assert!(sentence.contains("was stopped"), "{sentence}");
    }
}

#[test]
fn lists_that_say_the_same_many_times_are_refused() {
    let nested = |used: &str| {
        format!(
            "{{% set a = [0, 0] %}}{}{used}",
            "{% set a = [a, a] %}".repeat(60)
        )
    };
    for source in [
        nested("{{ a }}"),
        nested("{{ a|string }}"),
        nested("{{ a ~ '' }}"),
        nested("{{ a|tojson }}"),
        nested("{{ a == a }}"),
        nested("{{ ','.join(a) }}"),
        format!("{{% set a = [0] %}}{}{{{{ a|length }}}}", "{% set a = a|chain(a) %}".repeat(60)),
        format!("{{% set a = [0] %}}{}{{{{ a|length }}}}", "{% set a = a + a %}".repeat(60)),
        "{% set ns = namespace(x=[]) %}{% for i in range(9000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".into(),
        "{% for a in [[1, 1]] %}{% for b in [(a, a)] %}{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{% endfor %}{% endfor %}".into(),
        "{% set ns = namespace() %}{% set ns.x = dict(a=ns) %}{{ ns }}".into(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns == ns }}".into(),
        "{% set n = 1000000 %}{{ ([1] * n) ~ '' }}".into(),
        "{% set x = 'a' * 900 %}{% set y = [x] * 900 %}{% set z = [y] * 900 %}{{ z }}".into(),
    ] {
        refused(&source);
    }
}

#[test]
fn numbers_and_depths_are_bounded() {
    for (source, said) in [
        (
            "{% for i in range(10**9) %}x{% endfor %}".to_string(),
            "range has too many",
        ),
        (
            "{{ range(-9223372036854775807, 5, 3)|length }}".into(),
            "range has too many",
        ),
        (
            "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}".into(),
            "recursion limit",
        ),
        (
            "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}".into(),
            "recursion limit",
        ),
        (
            format!("{{{{ {}1{} }}}}", "(".repeat(1000), ")".repeat(1000)),
            "recursion limit",
        ),
        (
            format!("{}{}", "{% if 1 %}".repeat(400), "{% endif %}".repeat(400)),
            "recursion limit",
        ),
        (format!("{{{{ 1{} }}}}", "+1".repeat(30_000)), "too long"),
        (format!("{{{{ x{} }}}}", "|int".repeat(30_000)), "too long"),
        (
            format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(6000)),
            "too many conditions",
        ),
        (format!("{{{{ {} }}}}", "9".repeat(60_000)), "too long"),
        (format!("{{{{ {} }}}}", "9".repeat(600)), "too large"),
        (format!("{{{{ '{}' }}}}", "a".repeat(600_000)), "bytes"),
        ("{{ 10**(10**9) }}".into(), "unable to calculate"),
    ] {
        let sentence = refused(&source);
        assert!(sentence.contains(said), "{sentence}");
    }
}

#[test]
fn nothing_outside_is_reached() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{%- import 'x' as y %}",
        "{% from 'x' import y %}",
        "{%+ extends 'the template' %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__ }}",
        "{{ debug() }}",
        "{{ [1]|esolm_bounded }}",
        "{{ strftime_now('%Q') }}",
        "{{ strftime_now('%Y' * 900) }}",
        "{% for x in y %}",
        "{{ 'open",
    ] {
        refused(source);
    }
    // What is not there is nothing, as in Python's language.
    assert_eq!(
        says("{{ ''|attr('__class__') }}{{ self }}").as_deref(),
        Ok("")
    );
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let sentence = refused("{{ raise_exception('roles must\n\x1b[2Jalternate') }}");
    assert_eq!(
        sentence,
        "the chat template refuses the conversation: roles must\\n\\u{1b}[2Jalternate"
    );
    refused(&format!(
        "{{{{ raise_exception('{}') }}}}",
        "no ".repeat(30_000)
    ));
    refused("{{ raise_exception() }}");
    refused("{{ raise_exception([1]) }}");
}

#[test]
fn files_say_it_in_several_ways() {
    let config = |json: serde_json::Value| ChatFiles {
        template: None,
        tokenizer_config: Some(json.to_string()),
    };
    let says = |files: &ChatFiles| ChatTemplate::new(files)?.render(&[], HOW);
    let one = config(
        serde_json::json!({"chat_template": "one{{ eos_token }}", "eos_token": {"content": "</s>"}}),
    );
    assert_eq!(says(&one).as_deref(), Ok("one</s>"));
    let several = serde_json::json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
    assert_eq!(says(&config(several)).as_deref(), Ok("d"));
    let beside = ChatFiles {
        template: Some("file{{ eos_token }}".into()),
        ..one
    };
    assert_eq!(says(&beside).as_deref(), Ok("file</s>"));
    for (json, said) in [
        (serde_json::json!({}), "no chat template"),
        (
            serde_json::json!({"chat_template": [{"name": "rag", "template": "t"}]}),
            "called \"rag\"",
        ),
        (
            serde_json::json!({"chat_template": [{"name": "rag"}]}),
            "without a name",
        ),
        (serde_json::json!({"chat_template": 7}), "neither a text"),
        (serde_json::json!([]), "not a JSON object"),
    ] {
        let sentence = says(&config(json)).unwrap_err().to_string();
        assert!(sentence.contains(said), "{sentence}");
    }
}

#[test]
fn the_oldest_turns_go_first() {
    let all = [
        Message::system("s"),
        Message::user("1"),
        Message::assistant("a"),
        Message::user("2"),
        Message::assistant("b"),
        Message::user("3"),
    ];
    assert_eq!(oldest_turn(&all, 0), Some(2));
    assert_eq!(oldest_turn(&all, 2), Some(2));
    assert_eq!(oldest_turn(&all, 4), None);
    let left = without_oldest(&all, 4);
    assert_eq!(left, [Message::system("s"), Message::user("3")]);
}

#[test]
fn thoughts_are_told_apart() {
    assert_eq!(split_thoughts("plain"), (None, "plain"));
    assert_eq!(
        split_thoughts("<think>\nwhy\n</think>\n\nso"),
        (Some("why"), "so")
    );
    assert_eq!(split_thoughts("why</think>so"), (Some("why"), "so"));
    assert_eq!(split_thoughts("<think>\nwhy"), (Some("why"), ""));
}
