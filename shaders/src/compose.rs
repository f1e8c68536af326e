//! Assembles a WGSL kernel: constants, then the shader with its snippets and line directives.
//!
//! - `{{name}}` is replaced by a snippet, or by the index of the binding with that name.
//! - `//@unroll v N` .. `//@end` repeats its lines N times, with `$v` replaced by 0, 1, ...; N is a number or one of
//!   the constants. Register blocks written this way do not depend on what a driver's compiler unrolls.
//! - `//@if FLAG` .. `//@else` .. `//@end` keeps lines if a flag is set, `//@unless FLAG` .. `//@end` if it is not.

use crate::{Shader, Snippet};

/// Selects one variant of a shader.
#[derive(Debug, Default)]
pub struct Form {
    /// WGSL constants (`const NAME: u32 = value;`), also usable as an unroll count.
    pub constants: Vec<(&'static str, u32)>,
    /// WGSL constants of type `f32`.
    pub floats: Vec<(&'static str, f32)>,
    /// The snippets chosen for slots that have several options.
    pub snippets: Vec<&'static Snippet>,
    /// Flags for `//@if`.
    pub flags: Vec<&'static str>,
}

impl Shader {
    /// The complete WGSL text of a form.
    ///
    /// # Panics
    /// If the form leaves a slot open, or the file has an unknown directive or an unbalanced block. These are
    /// programming errors; the tests of this crate check every form for them.
    pub fn compose(&self, form: &Form) -> String {
        let mut text = String::new();
        for (name, value) in &form.constants {
            text.push_str(&format!("const {name}: u32 = {value}u;\n"));
        }
        for (name, value) in &form.floats {
            text.push_str(&format!("const {name}: f32 = {value:?};\n"));
        }
        text.push_str(self.text);
        for slot in self.slots {
            let placeholder = format!("{{{{{}}}}}", slot.name);
            if text.contains(&placeholder) {
                let snippet = match slot.one_of {
                    [only] => Some(only),
                    several => several.iter().find(|snippet| form.has(snippet.name)),
                };
                let snippet = snippet
                    .unwrap_or_else(|| panic!("a form of {} has no {}", self.name, slot.name));
                text = text.replace(&placeholder, snippet.text);
            }
        }
        for (index, binding) in self.bindings(form) {
            text = text.replace(&format!("{{{{{}}}}}", binding.name), &index.to_string());
        }
        form.expand(&text)
    }
}

impl Form {
    /// Whether a flag or a snippet was chosen.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.flags.contains(&name) || self.snippets.iter().any(|snippet| snippet.name == name)
    }

    /// Applies the directives.
    fn expand(&self, text: &str) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let mut out = String::with_capacity(text.len() * 2);
        let end = self.block(&lines, 0, &[], true, &mut out);
        assert_eq!(end, lines.len(), "a shader has an `//@end` too many");
        out
    }

    /// Expands lines from `at` to the end of the block; returns the index of its `//@end` or `//@else`, or the length.
    fn block(
        &self,
        lines: &[&str],
        mut at: usize,
        vars: &[(&str, u32)],
        keep: bool,
        out: &mut String,
    ) -> usize {
        while at < lines.len() {
            let Some(directive) = lines[at].trim_start().strip_prefix("//@") else {
                if keep {
                    let mut line = lines[at].to_string();
                    for (name, value) in vars {
                        line = line.replace(&format!("${name}"), &value.to_string());
                    }
                    out.push_str(&line);
                    out.push('\n');
                }
                at += 1;
                continue;
            };
            let words: Vec<&str> = directive.split_whitespace().collect();
            match words.as_slice() {
                ["unroll", name, count] => {
                    let count = self.count(count);
                    let mut end = self.block(lines, at + 1, vars, false, out);
                    for index in 0..count {
                        let mut inner = vars.to_vec();
                        inner.push((name, index));
                        end = self.block(lines, at + 1, &inner, keep, out);
                    }
                    at = end + 1;
                }
                [condition @ ("if" | "unless"), flag] => {
                    let yes = self.flags.contains(flag) == (*condition == "if");
                    let mut end = self.block(lines, at + 1, vars, keep && yes, out);
                    if lines[end].trim() == "//@else" {
                        end = self.block(lines, end + 1, vars, keep && !yes, out);
                    }
                    at = end + 1;
                }
                ["else"] | ["end"] => return at,
                _ => panic!("a shader has the unknown directive `{directive}`"),
            }
        }
        at
    }

    fn count(&self, text: &str) -> u32 {
        let constant = || self.constants.iter().find(|(name, _)| *name == text);
        text.parse()
            .ok()
            .or_else(|| constant().map(|(_, value)| *value))
            .unwrap_or_else(|| panic!("a shader unrolls by the unknown constant `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_nest() {
        let form = Form {
            constants: vec![("ROWS", 2)],
            flags: vec!["NORM"],
            ..Default::default()
        };
        let text = form.expand("//@unroll r ROWS\na$r\n//@if NORM\nn$ru\n//@else\nno\n//@end\n//@unroll c 2\n$r-$c\n//@end\n//@end\nz\n//@if TOP_P\nq\n//@end\n//@unless TOP_P\nu\n//@end\n//@unless NORM\nv\n//@end");
        assert_eq!(text, "a0\nn0u\n0-0\n0-1\na1\nn1u\n1-0\n1-1\nz\nu\n");
    }
}
