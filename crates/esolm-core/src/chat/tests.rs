//! Templates: what the language offers them, and what hostile ones are kept from doing.

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

/// Checks that a template is rejected soon, with one line of bounded length.
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
        format!("{{% set a = [0] %}}{}{{{{ a|length }}}}", "{% set a | list|chain(a, a)|list -%}x{% endset %}".repeat(60)),
        "{% set ns = namespace(x=[0]) %}{% for i in range(60) %}{% set ns.x | list|chain(ns.x, ns.x) %}x{% endset %}{% endfor %}{{ ns.x|length }}".into(),
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

/// What the engine reads as code is never taken for a comment or for raw text.
#[test]
fn code_cannot_be_hidden() {
    let twice = "{% set a = [a, a] %}".repeat(60);
    let evil = format!("{{% set a = [0, 0] %}}{twice}{{{{ a == a }}}}");
    for source in [
        format!("{{% raw %}}{{% endrawx %}}{{#{{% endraw %}}{evil}#}}"),
        format!("{{% raw %}}{{% endraw x %}}{{#{{% endraw %}}{evil}#}}"),
        format!("{{% raw %}}{{%-- endraw %}}{{#{{% endraw %}}{evil}#}}"),
        format!("{{% raw %}}{{% \u{a0}endraw %}}{{#{{% endraw %}}{evil}#}}"),
        format!("{{% raw %}}{{% endraw\u{2003}%}}{{#{{% endraw %}}{evil}#}}"),
        format!("{{%\u{c}raw %}}{{#{{% endraw %}}{evil}#}}"),
        format!("{{% raw\u{c}-%}}{{#{{%+\u{c}endraw\u{c}-%}}{evil}#}}"),
        format!("{{#}}{{{{ ' #}}{evil}{{# ' }}}}#}}"),
        format!("{{#-#}}{evil}"),
        format!("{{{{\u{c}1\u{c}}}}}{evil}"),
    ] {
        let sentence = refused(&source);
        assert!(sentence.contains("too many"), "{sentence}: {source}");
    }
    for (source, text) in [
        (
            "{% raw %}{{ [ }}{% endrawx %}{% endraw %}",
            "{{ [ }}{% endrawx %}",
        ),
        ("{%-\t raw -%} {% {%- endraw +%}", "{%"),
        ("{%\u{c}raw %}[{%\u{c}endraw\u{c}%}", "["),
        ("{#}{{ ' #}a{# ' }}#}b", "ab"),
        ("{##}a{#-#}b{#- {% raw %} -#}c", "abc"),
    ] {
        assert_eq!(says(source).as_deref(), Ok(text), "{source}");
    }
}

/// Whatever a macro or a function is given is bounded, so that it cannot be made larger at every level of a recursion.
#[test]
fn arguments_are_bounded() {
    let ten = |value: &str| {
        let parts: Vec<String> = ('a'..='j').map(|name| format!("{name}={value}")).collect();
        parts.join(", ")
    };
    let named = ten("v");
    let recursive = |larger: &str| {
        format!(
            "{{% macro m(v, n) %}}{{% if n %}}{{{{ m({larger}, n - 1) }}}}{{% else %}}{{{{ v == v }}}}{{% endif %}}{{% endmacro %}}{{{{ m([1], 20) }}}}"
        )
    };
    let by_default = format!(
        "{{% macro m(n, v=1) %}}{{% macro o(x=dict({named})) %}}{{{{ m(n - 1, x) }}}}{{% endmacro %}}{{% if n %}}{{{{ o() }}}}{{% else %}}{{{{ v == v }}}}{{% endif %}}{{% endmacro %}}{{{{ m(8) }}}}"
    );
    let called = format!(
        "{{% macro c(n) %}}{{{{ caller() }}}}{{% endmacro %}}{{% macro m(n, v=range(9000)|list) %}}{{% if n %}}{{% call(x=dict({named})) c(n) %}}{{{{ m(n - 1, x) }}}}{{% endcall %}}{{% else %}}{{{{ v == v }}}}{{% endif %}}{{% endmacro %}}{{{{ m(3) }}}}"
    );
    for source in [
        recursive(&format!("dict({named})")),
        recursive(&format!("dict(**dict({named}))")),
        recursive("v|list|chain([v, v])|list"),
        recursive("dict(a=namespace(x=[v, v]).x, b=v)"),
        recursive(&format!("dict(a=dict({named}), b=dict({named}))")),
        recursive(&format!("*[dict({named})]")),
        by_default,
        called,
    ] {
        let sentence = refused(&source);
        assert!(sentence.contains("too many"), "{sentence}: {source}");
    }
    for (source, text) in [
        (
            "{% macro m(a, b=a, c=dict(x=[1, 2],), d=-1,) %}{{ a }}{{ b }}{{ c.x|last }}{{ d }}{% endmacro %}{{ m(1) }} {{ m(*[1, 2], **{'c': {'x': [3]}}) }} {{ m(7 if true else 8, d='a' 'b',) }}",
            "12-1 123-1 72ab",
        ),
        (
            "{% set x | upper %}a{% endset %}{% set y | replace('A', x ~ 'b') -%} A{% endset %}{{ x }}{{ y }}",
            "AAb",
        ),
        (
            "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b, c=[a, b]|length) m() %}{{ a }}{{ b }}{{ c }}{% endcall %}",
            "122",
        ),
        (
            "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}a{% endcall %}{{ x is defined }}{{ 6 is divisibleby(2 + 1) }}{{ 'a-b'.split('-', 1)|join((',')) }}",
            "aFalseTruea,b",
        ),
        (
            "{% for x in [[1, [2]]] recursive %}{% for y in x %}{{ y if y is number else loop.length ~ y[0] }}{% endfor %}{% endfor %}{{ dict(a=undefined_name, b=none)|length }}",
            "1222",
        ),
    ] {
        assert_eq!(says(source).as_deref(), Ok(text), "{source}");
    }
}

/// A value of many parts is not written into a text, whatever put it together.
#[test]
fn what_is_made_of_arguments_is_bounded() {
    let large = "{% set n = 900000 %}{% set x = 'a' * n %}{% set v = [x] * 16 %}";
    let named: Vec<String> = (0..300).map(|number| format!("k{number}=v")).collect();
    let named = named.join(", ");
    for expression in [
        format!("dict({named})|string|length"),
        format!("dict({named}) ~ ''"),
        format!("namespace({named})|string|length"),
        "[v] * 900 ~ ''".into(),
        "'' ~ [v] * 900".into(),
        "v|batch(300, v)|list|string|length".into(),
        "([0] * 900)|map('default', v, true)|list|string|length".into(),
    ] {
        refused(&format!("{large}{{{{ {expression} }}}}"));
        refused(&format!("{large}{{% set y = {expression} %}}"));
    }
    refused(&format!(
        "{large}{{% set y | batch(300, v)|string %}}a{{% endset %}}"
    ));
    refused(&format!(
        "{large}{{% filter batch(300, v)|string %}}a{{% endfilter %}}"
    ));
    for (source, text) in [
        (
            "{{ (2 * 3) ~ 'a' ~ dict(a=1, **{'b': 2})|length }}{{ (2 * 3, '~')|length }}",
            "6a22",
        ),
        (
            "{{ [1, 2, 3]|batch(2)|list|length }}{% filter replace('a', 'b') %}a{% endfilter %}",
            "2b",
        ),
        (
            "{{ namespace({'a': 1}).a }}{{ namespace(a=1, b=2).b }}{{ dict({'a': 3}).a }}",
            "123",
        ),
    ] {
        assert_eq!(says(source).as_deref(), Ok(text), "{source}");
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
    // As in Jinja, undefined values are empty.
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
