//! The list of shaders against the files: every form of every shader is composed, parsed and validated, and its bindings must match
//! the list.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use esolm_shaders::{Access, Form, SHADERS, Shader, Snippet};
use naga::common::wgsl::TryToWgsl;
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Type, TypeInner};

/// Names of the .wgsl files in a folder, without the extension.
fn files(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let names = fs::read_dir(folder).expect("a folder").map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("UTF-8")
    });
    names
        .filter_map(|name| Some(name.strip_suffix(".wgsl")?.to_string()))
        .collect()
}

/// Every choice of snippets for the slots of `text` and for those that the chosen snippets add.
fn choices(shader: &Shader, text: &str, from: usize) -> Vec<Vec<&'static Snippet>> {
    let Some(slot) = shader.slots.get(from) else {
        return vec![vec![]];
    };
    let placeholder = format!("{{{{{}}}}}", slot.name);
    if !text.contains(&placeholder) {
        return choices(shader, text, from + 1);
    }
    let with = |snippet: &&'static Snippet| {
        let text = text.replace(&placeholder, snippet.text);
        let mut rest = choices(shader, &text, from + 1);
        rest.iter_mut().for_each(|chosen| chosen.push(snippet));
        rest
    };
    slot.one_of.iter().flat_map(with).collect()
}

/// Every form of a shader, with constants that suit all shaders.
fn forms(shader: &Shader) -> Vec<Form> {
    let choices = choices(shader, shader.text, 0);
    let form = |flags: &&[&'static str], snippets: &Vec<&'static Snippet>| Form {
        constants: shader.constants.iter().map(|name| (*name, 4)).collect(),
        floats: shader.floats.iter().map(|name| (*name, 0.5)).collect(),
        snippets: snippets.clone(),
        flags: flags.to_vec(),
    };
    let flags = shader.flags.iter();
    flags
        .flat_map(|flags| choices.iter().map(move |snippets| form(flags, snippets)))
        .collect()
}

fn parse(shader: &Shader, form: &Form) -> (Module, ModuleInfo) {
    let text = shader.compose(form);
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|error| panic!("{}: {}", shader.name, error.emit_to_string(&text)));
    // The only capability of naga that every WebGPU device has: `unpack2x16float` and the like.
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", shader.name, error.emit_to_string(&text)));
    (module, info)
}

/// The type of an array's elements, or of a uniform block, in WGSL.
fn element(module: &Module, ty: &Type) -> String {
    match &ty.inner {
        TypeInner::Array { base, .. } => element(module, &module.types[*base]),
        TypeInner::Struct { .. } => ty.name.clone().expect("a name"),
        TypeInner::Scalar(scalar) => scalar.to_wgsl_for_diagnostics(),
        TypeInner::Atomic(scalar) => format!("atomic<{}>", scalar.to_wgsl_for_diagnostics()),
        TypeInner::Vector { size, scalar } => {
            format!("vec{}<{}>", *size as u8, scalar.to_wgsl_for_diagnostics())
        }
        other => panic!("{other:?}"),
    }
}

/// The members of a uniform block, without padding.
fn members(ty: &Type) -> String {
    let TypeInner::Struct { members, .. } = &ty.inner else {
        panic!("a uniform that is not a block: {ty:?}");
    };
    let names = members.iter().filter_map(|member| member.name.as_deref());
    let names: Vec<&str> = names.filter(|name| !name.starts_with("pad")).collect();
    names.join(", ")
}

#[test]
fn every_file_is_listed_and_every_snippet_used() {
    let listed: BTreeSet<String> = SHADERS.iter().map(|shader| shader.name.into()).collect();
    assert_eq!(listed, files("."));
    assert_eq!(listed.len(), SHADERS.len(), "a shader is listed twice");
    let slots = SHADERS.iter().flat_map(|shader| shader.slots);
    let snippets = slots.flat_map(|slot| slot.one_of);
    let used: BTreeSet<String> = snippets.map(|snippet| snippet.name.into()).collect();
    assert_eq!(used, files("lib"));
}

#[test]
fn texts_are_those_of_the_files() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.wgsl"));
        fs::read_to_string(path).expect("a shader")
    };
    for shader in SHADERS {
        assert_eq!(shader.text, read(shader.name));
        for snippet in shader.slots.iter().flat_map(|slot| slot.one_of) {
            assert_eq!(snippet.text, read(&format!("lib/{}", snippet.name)));
        }
    }
}

#[test]
fn every_binding_is_as_it_is_described() {
    for shader in SHADERS {
        for form in forms(shader) {
            let snippets = form.snippets.iter().map(|snippet| snippet.name);
            let snippets: Vec<&str> = snippets.collect();
            let what = format!("{} with {:?} and {snippets:?}", shader.name, form.flags);
            let (module, info) = parse(shader, &form);
            assert_eq!(module.entry_points[0].name, "main", "{what}");
            let uses = info.get_entry_point(0);
            let mut found = Vec::new();
            for (handle, variable) in module.global_variables.iter() {
                let Some(place) = variable.binding else {
                    continue;
                };
                assert_eq!(place.group, 0, "{what}");
                let ty = &module.types[variable.ty];
                let (access, block) = match (variable.space, uses[handle]) {
                    (AddressSpace::Uniform, _) => (Access::Uniform, members(ty)),
                    (_, GlobalUse::READ) => (Access::Read, String::new()),
                    (_, GlobalUse::WRITE) => (Access::Write, String::new()),
                    (_, both) if both == GlobalUse::READ | GlobalUse::WRITE => {
                        (Access::ReadWrite, String::new())
                    }
                    (_, other) => panic!("{what}: {:?} is used by {other:?}", variable.name),
                };
                let name = variable.name.clone().expect("a name");
                let index = place.binding as usize;
                found.push((index, name, access, element(&module, ty), block));
            }
            found.sort_by_key(|(index, ..)| *index);
            let listed: Vec<_> = shader
                .bindings(&form)
                .map(|(index, binding)| {
                    let block = match binding.access {
                        Access::Uniform => {
                            // Every launch may be split into several.
                            assert!(binding.shape.ends_with(", origin"), "{what}");
                            binding.shape.to_string()
                        }
                        _ => String::new(),
                    };
                    let (name, element) = (binding.name.to_string(), binding.element.to_string());
                    (index, name, binding.access, element, block)
                })
                .collect();
            assert_eq!(found, listed, "{what}");
        }
    }
}

/// Every listed binding, constant and flag is used by some form.
#[test]
fn nothing_is_described_in_vain() {
    for shader in SHADERS {
        let forms = forms(shader);
        for binding in shader.bindings {
            let mut bound = forms.iter().flat_map(|form| shader.bindings(form));
            let bound = bound.any(|(_, other)| std::ptr::eq(other, binding));
            assert!(bound, "{}: {binding:?}", shader.name);
            for text in [binding.shape, binding.memory] {
                assert!(!text.is_empty(), "{}: {binding:?}", shader.name);
            }
        }
        let texts: Vec<String> = forms.iter().map(|form| shader.compose(form)).collect();
        for name in shader.constants.iter().chain(shader.floats) {
            let defined = format!("const {name}:");
            let used = |text: &String| {
                let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                text.contains(&defined) && words.filter(|word| word == name).count() > 1
            };
            // The count of an `//@unroll` is no longer in the composed text.
            let counted = shader.text.contains(&format!(" {name}\n"));
            assert!(counted || texts.iter().any(used), "{}: {name}", shader.name);
        }
        for flag in shader.flags.iter().copied().flatten() {
            let directive = format!("//@if {flag}\n");
            assert!(shader.text.contains(&directive), "{}: {flag}", shader.name);
        }
    }
}
