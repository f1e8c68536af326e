//! Conversations: prompts as made by published templates, answers as written by published samplers, and a cache that is
//! kept between turns without changing anything.

use std::path::{Path, PathBuf};

use esolm::checkpoint::{ChatFiles, OpenOptions};
use esolm::config::{Family, ReadAs};
use esolm::plan::PromptTail;
use esolm::text::TextCodec;
use esolm::{
    Answer, Chat, ChatError, ChatEvent, ChatOptions, ChatPrompt, ChatStep, ChatTemplate,
    DeviceChoice, Error, LoadOptions, Message, Model, ModelFiles, Rendering, Request,
};
use esolm_tests::decoders::folder;
use serde_json::{Value, json};

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The golden files about conversations that have `field`, whatever their names.
fn files(field: &str) -> Vec<(PathBuf, Value)> {
    let entries = std::fs::read_dir(folder().join("chat")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    let all = paths.into_iter().map(|path| (path.clone(), read(&path)));
    let found: Vec<_> = all.filter(|(_, json)| json.get(field).is_some()).collect();
    assert!(!found.is_empty(), "no golden file with {field}");
    found
}

fn messages(json: &Value) -> Vec<Message> {
    serde_json::from_value(json.clone()).unwrap()
}

fn ids(json: &Value) -> Vec<u32> {
    serde_json::from_value(json.clone()).unwrap()
}

/// A folder that is removed when the test ends.
struct Temporary(PathBuf);

impl Temporary {
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A golden model with its tokenizer, and with some fields of its configuration changed.
fn model_folder(model: &str, fields: &Value) -> Temporary {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let out = std::env::temp_dir().join(format!("esolm-chat-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&out).unwrap();
    for entry in std::fs::read_dir(folder().join(model)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, out.join(path.file_name().unwrap())).unwrap();
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(folder().join("chat").join(name), out.join(name)).unwrap();
    }
    let mut config = read(&out.join("config.json"));
    let all = config.as_object_mut().unwrap();
    all.extend(fields.as_object().unwrap().clone());
    let path = out.join("config.json");
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, config.to_string()).unwrap();
    Temporary(out)
}

fn load(folder: &Temporary, read_as: ReadAs, device: DeviceChoice) -> Model {
    let options = OpenOptions {
        read_as,
        ..OpenOptions::default()
    };
    let files = ModelFiles::open(folder.path(), &options).unwrap_or_else(|e| panic!("{e}"));
    files.check_chat(&ChatOptions::default()).unwrap();
    let options = LoadOptions {
        device,
        ..LoadOptions::default()
    };
    Model::load_blocking(files, options).unwrap_or_else(|error| panic!("{error}"))
}

/// The events of an answer.
fn told(chat: &Chat) -> Result<(ChatPrompt, Vec<ChatStep>, Answer), Error> {
    let (mut prompt, mut steps, mut answer) = (None, Vec::new(), None);
    for event in chat.answer().blocking() {
        match event? {
            ChatEvent::Prompt(event) => assert!(prompt.replace(event).is_none()),
            ChatEvent::Step(step) => steps.push(step),
            ChatEvent::Answer(last) => assert!(answer.replace(last).is_none()),
        }
    }
    Ok((prompt.unwrap(), steps, answer.unwrap()))
}

#[test]
fn golden_llm_chat_templates() {
    let mut count = 0;
    for (path, json) in files("chat") {
        let beside = path.with_file_name("tokenizer_config.json");
        let template = ChatTemplate::new(&ChatFiles::beside(&beside).unwrap()).unwrap();
        let config = esolm::config::ModelConfig::from_json_as(
            &std::fs::read_to_string(folder().join("chat/model_bd3lm/config.json")).unwrap(),
            &ReadAs {
                family: Some(Family::Mdlm),
                mask: json["mask_id"].as_u64().map(|mask| mask as u32),
                ..ReadAs::default()
            },
        );
        let tokenizer = path.with_file_name("tokenizer.json");
        let codec = TextCodec::from_file(&tokenizer, &config.unwrap()).unwrap();
        for case in json["chat"].as_array().unwrap() {
            let how = Rendering {
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                enable_thinking: case["enable_thinking"].as_bool(),
                now: 0,
            };
            let text = template.render(&messages(&case["messages"]), how).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{}", path.display());
            assert_eq!(
                codec.encode_all(&text).unwrap(),
                ids(&case["ids"]),
                "{text}"
            );
            count += 1;
        }
    }
    println!("{count} conversations");
}

/// The recorded answers of small chat models, token for token; the text and gaps of every step agree with the final
/// text.
fn check_answers(device: DeviceChoice) {
    let mut count = 0;
    for (path, json) in files("runs") {
        let kind = json["kind"].as_str().unwrap();
        let end = json["eos_id"].as_u64().unwrap() as u32;
        let mut loaded: Option<(u64, Model)> = None;
        for run in json["runs"].as_array().unwrap() {
            let options = &run["options"];
            let number = |name: &str| options[name].as_u64().unwrap();
            let (block, new) = (number("block_size"), number("max_new_tokens"));
            let model = match loaded.take().filter(|(size, _)| *size == block) {
                Some((_, model)) => model,
                None => {
                    let (family, block_size) = match kind {
                        "mdlm" => (Family::Mdlm, None),
                        _ => (Family::Bd3Lm, Some(block as usize)),
                    };
                    let read_as = ReadAs {
                        family: Some(family),
                        block_size,
                        mask: None,
                    };
                    let folder = model_folder(json["model"].as_str().unwrap(), &json!({}));
                    load(&folder, read_as, device)
                }
            };
            let steps = match kind {
                "mdlm" => number("steps"),
                _ => number("steps").div_ceil(new.div_ceil(block)),
            };
            let options = ChatOptions {
                request: Request {
                    steps: Some(steps as usize),
                    block_size: Some(block as usize),
                    temperature: options["temperature"].as_f64().map(|t| t as f32),
                    ..Request::default()
                },
                max_tokens: Some(new as usize),
                think: run["enable_thinking"].as_bool(),
            };
            let mut chat = Chat::new(&model, options).unwrap();
            chat.set_messages(messages(&run["messages"]));
            let (prompt, steps, answer) = told(&chat).unwrap();
            let what = format!("{}: {}", path.display(), run["messages"]);
            assert_eq!(prompt.tokens, ids(&run["prompt"]), "{what}");
            let generated = ids(&run["generated"]);
            let body = generated.iter().position(|&token| token == end);
            assert_eq!(
                answer.tokens,
                generated[..body.unwrap_or(generated.len())],
                "{what}"
            );
            assert_eq!(answer.text, run["text"].as_str().unwrap(), "{what}");
            let joined: String = steps.iter().map(|step| step.text.as_str()).collect();
            assert_eq!(joined, answer.text, "{what}");
            assert!(steps.iter().any(|step| step.open.contains(&None)), "{what}");
            for step in &steps {
                assert!(
                    step.open.len() <= block as usize
                        && step.open.first() != Some(&Some(String::new()))
                );
            }
            loaded = Some((block, model));
            count += 1;
        }
    }
    println!("{count} answers");
}

#[test]
fn golden_llm_chat_answers() {
    check_answers(DeviceChoice::Cpu);
}

/// Needs a GPU adapter; a software one will do.
#[test]
fn golden_llm_chat_answers_on_a_gpu() {
    check_answers(DeviceChoice::Gpu(None));
}

/// A way to run the network of a small chat model.
struct Way {
    name: &'static str,
    /// Fields of its configuration.
    config: Value,
    read_as: ReadAs,
    tail: Option<PromptTail>,
    /// The number of cached tokens reused is a multiple of this; `None` if undetermined.
    block: Option<usize>,
}

fn ways() -> Vec<Way> {
    let blocks = ReadAs {
        family: Some(Family::Bd3Lm),
        block_size: Some(8),
        mask: None,
    };
    let mdlm = ReadAs {
        family: Some(Family::Mdlm),
        ..ReadAs::default()
    };
    let own = ReadAs::default();
    let sdar = json!({"model_type": "sdar", "architectures": ["SDARForCausalLM"], "block_size": 4});
    let way = |name, config, read_as, tail, block| Way {
        name,
        config,
        read_as,
        tail,
        block,
    };
    let (blind, shared) = (Some(PromptTail::Blind), Some(PromptTail::Shared));
    vec![
        way("AR", ar(), own, None, Some(1)),
        way("SDAR", sdar, own, None, Some(4)),
        way("card", json!({}), blocks, blind, Some(8)),
        way("shared", json!({}), blocks, shared, Some(8)),
        way("dllm", json!({}), blocks, None, None),
        way("MDLM", json!({}), mdlm, None, None),
    ]
}

fn ar() -> Value {
    json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})
}

fn options(tail: Option<PromptTail>, seed: u64, most: usize) -> ChatOptions {
    ChatOptions {
        request: Request {
            temperature: Some(1.0),
            seed: Some(seed),
            prompt_tail: tail,
            ..Request::default()
        },
        max_tokens: Some(most),
        think: None,
    }
}

/// A conversation that continues from the cache is, bit for bit, the one in which every answer is computed from
/// scratch.
#[test]
fn a_kept_cache_changes_nothing() {
    for Way {
        name,
        config,
        read_as,
        tail,
        block,
    } in ways()
    {
        let folder = model_folder("chat/model_bd3lm", &config);
        let model = load(&folder, read_as, DeviceChoice::Cpu);
        let mut chat = Chat::new(&model, options(tail, 1, 20)).unwrap();
        chat.push(Message::system("Be brief, and say what is so."));
        let (mut kept, mut saved) = (0, 0);
        for (turn, said) in [
            "What colour is the sky?",
            "Why?",
            "And at night?",
            "Who says so?",
        ]
        .iter()
        .enumerate()
        {
            chat.push(Message::user(*said));
            chat.options = options(tail, 1 + turn as u64, 20 + turn);
            let (prompt, steps, answer) = told(&chat).unwrap();
            // Another model, so that the first one's cache stays.
            let other = load(&folder, read_as, DeviceChoice::Cpu);
            let mut alone = Chat::new(&other, chat.options.clone()).unwrap();
            alone.set_messages(chat.messages().to_vec());
            let (new_prompt, new_steps, new) = told(&alone).unwrap();
            assert_eq!(
                (new_prompt.cached, &new_prompt.tokens),
                (0, &prompt.tokens),
                "{name}"
            );
            assert_eq!(
                (&answer.tokens, &answer.text),
                (&new.tokens, &new.text),
                "{name} {turn}"
            );
            let texts = |steps: &[ChatStep]| -> Vec<(String, Vec<Option<String>>)> {
                let one = |step: &ChatStep| (step.text.clone(), step.open.clone());
                steps
                    .iter()
                    .map(one)
                    .filter(|(text, open)| !text.is_empty() || !open.is_empty())
                    .collect()
            };
            assert_eq!(texts(&steps), texts(&new_steps), "{name} {turn}");
            assert_eq!(prompt.cached, answer.cached);
            if let Some(block) = block {
                assert_eq!(prompt.cached % block, 0, "{name}");
                assert!(turn == 0 || prompt.cached > 0, "{name} {turn}");
            }
            kept += prompt.cached;
            saved += new.rows - answer.rows;
            chat.push(answer.message());
        }
        println!("{name}: {kept} tokens kept, {saved} rows saved");
        if block.is_some() {
            assert!(saved > 0, "{name}");
        }
        if name == "MDLM" {
            assert_eq!(kept, 0);
        }
    }
}

/// The cache is discarded if another call used the device, the messages change, or another conversation used it.
#[test]
fn a_cache_of_others_is_not_gone_on_from() {
    let folder = model_folder("chat/model_bd3lm", &ar());
    let model = load(&folder, ReadAs::default(), DeviceChoice::Cpu);
    let ask = |chat: &mut Chat, text: &str| {
        chat.set_messages(vec![Message::user(text)]);
        let (prompt, _, answer) = told(chat).unwrap();
        (prompt.cached, answer.text)
    };
    let mut first = Chat::new(&model, options(None, 7, 16)).unwrap();
    let mut second = Chat::new(&model, options(None, 7, 16)).unwrap();
    let (cached, text) = ask(&mut first, "Name a fruit.");
    assert_eq!(cached, 0);
    assert!(ask(&mut first, "Name a fruit.").0 > 0);
    assert_eq!(ask(&mut second, "Name a fruit."), (0, text.clone()));
    assert_eq!(ask(&mut first, "Name a fruit."), (0, text.clone()));
    let request = Request {
        length: Some(16),
        ..Request::default()
    };
    model.blocking().text(request).unwrap();
    assert_eq!(ask(&mut first, "Name a fruit."), (0, text));
    // An abandoned answer leaves nothing to continue from.
    let mut dropped = first.answer();
    assert!(matches!(
        pollster::block_on(dropped.next()),
        Some(Ok(ChatEvent::Prompt(_)))
    ));
    drop(dropped);
    assert_eq!(ask(&mut first, "Name a fruit.").0, 0);
}

/// The oldest turns are dropped and the system message stays; a message that is too long by itself is refused.
#[test]
fn a_conversation_is_trimmed_to_the_context() {
    let mut config = ar();
    config["max_position_embeddings"] = json!(256);
    let folder = model_folder("chat/model_bd3lm", &config);
    let model = load(&folder, ReadAs::default(), DeviceChoice::Cpu);
    let mut chat = Chat::new(&model, options(None, 3, 16)).unwrap();
    chat.push(Message::system("KEEP ME"));
    let mut dropped = Vec::new();
    for turn in 0..12 {
        chat.push(Message::user(format!("What do bees make in year {turn}?")));
        let (prompt, _, answer) = told(&chat).unwrap();
        assert!(prompt.text.contains("KEEP ME") && prompt.text.contains(&format!("year {turn}?")));
        assert!(prompt.tokens.len() + prompt.max_tokens <= 256);
        let left_out = prompt.text.matches("<|im_start|>").count() - 1;
        assert_eq!(left_out, chat.messages().len() - prompt.dropped);
        dropped.push(prompt.dropped);
        chat.push(Message::assistant(format!(
            "answer {}",
            answer.tokens.len()
        )));
    }
    assert!(
        dropped[0] == 0 && dropped[11] > 0 && dropped.is_sorted(),
        "{dropped:?}"
    );
    // Not in every turn, or the cache could never be reused.
    assert!(
        dropped
            .windows(2)
            .any(|pair| pair[0] == pair[1] && pair[0] > 0),
        "{dropped:?}"
    );
    chat.set_messages(vec![Message::user("bees ".repeat(300))]);
    let error = told(&chat).unwrap_err();
    assert!(
        matches!(error, Error::Chat(ChatError::TooLong { .. })),
        "{error}"
    );
    chat.set_messages(Vec::new());
    assert!(matches!(
        told(&chat),
        Err(Error::Chat(ChatError::NoMessage))
    ));
}

/// Stop strings and stopped answers.
#[test]
fn answers_end_where_they_are_told_to() {
    let read_as = ReadAs {
        family: Some(Family::Bd3Lm),
        block_size: Some(8),
        mask: None,
    };
    let folder = model_folder("chat/model_bd3lm", &json!({}));
    let model = load(&folder, read_as, DeviceChoice::Cpu);
    let mut chat = Chat::new(
        &model,
        ChatOptions {
            think: Some(false),
            ..ChatOptions::default()
        },
    )
    .unwrap();
    chat.push(Message::user("What do bees make?"));
    let (_, _, whole) = told(&chat).unwrap();
    assert_eq!(whole.text, "Bees make honey in the summer.");
    chat.options.request.stop_strings = vec![" in the".into()];
    let (_, steps, cut) = told(&chat).unwrap();
    assert_eq!(cut.text, "Bees make honey");
    assert_eq!(cut.finish, esolm::stop::Finish::Stop);
    let joined: String = steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(joined, cut.text);
    chat.options.request.stop_strings.clear();
    let answering = chat.answer();
    answering.stop();
    let stopped = pollster::block_on(answering.finish()).unwrap();
    assert_eq!(
        (stopped.text.as_str(), stopped.finish),
        ("", esolm::stop::Finish::Interrupted)
    );
    assert_eq!(told(&chat).unwrap().2.text, whole.text);
    // The mask token in a message is an error.
    chat.set_messages(vec![Message::user("a <|mask|>")]);
    assert!(matches!(told(&chat), Err(Error::Text(_))));
}
