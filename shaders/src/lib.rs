//! The WGSL kernels of esolm: the text of every shader, the contents of its bindings, and the composer that turns a
//! file into the text of one kernel. It has no dependencies; launching the kernels is up to the crate `esolm`.
//!
//! [`SHADERS`] lists the shaders. [`Shader::compose`] returns the text of one [`Form`] of a shader:
//!
//! ```
//! use esolm_shaders::{Form, NORM};
//!
//! // Layer normalisation of rows that are 64 x 4 = 256 wide.
//! let form = Form { constants: vec![("WG", 64), ("D4", 64)], ..Form::default() };
//! let text = NORM.compose(&form);
//! assert!(text.starts_with("const WG: u32 = 64u;"));
//! let bindings: Vec<_> = NORM.bindings(&form).map(|(index, binding)| (index, binding.name)).collect();
//! assert_eq!(bindings, [(0, "x"), (1, "out"), (2, "info")]);
//! ```

mod compose;
mod list;

pub use compose::Form;
pub use list::*;

/// A WGSL file with an entry point `main`.
#[derive(Debug)]
pub struct Shader {
    /// The file's name without `.wgsl`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
    /// Path of the Rust function that launches it.
    pub launcher: &'static str,
    /// Paths of the plain Rust functions that compute the same; tests compare the two.
    pub twins: &'static [&'static str],
    /// The placeholders for snippets, in the order in which they are filled: a snippet may contain those of later
    /// slots.
    pub slots: &'static [Slot],
    /// The `u32` constants that a form must set.
    pub constants: &'static [&'static str],
    /// The `f32` constants that a form must set.
    pub floats: &'static [&'static str],
    /// The sets of flags that a form may have.
    pub flags: &'static [&'static [&'static str]],
    /// Everything that a form binds, all in group 0. A binding's index is its position among those present in the form.
    pub bindings: &'static [Binding],
}

/// A WGSL file that is part of others.
#[derive(Debug)]
pub struct Snippet {
    /// The file's name without `.wgsl`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

/// A placeholder `{{name}}` in a shader or snippet.
#[derive(Debug)]
pub struct Slot {
    /// The name between the braces.
    pub name: &'static str,
    /// The snippets that may fill it. If there are several, a form chooses one.
    pub one_of: &'static [&'static Snippet],
}

/// A buffer that a shader binds. All buffers are dense: with shape `[a][b]`, element (i, j) has index i x b + j.
#[derive(Debug)]
pub struct Binding {
    /// Name of the variable.
    pub name: &'static str,
    /// What the shader does with it.
    pub access: Access,
    /// WGSL type of an array element, or of the uniform block.
    pub element: &'static str,
    /// Logical shape, outermost dimension first; for a uniform block its members, the last of which is always `origin`,
    /// the first workgroup of the launch.
    pub shape: &'static str,
    /// What a value is, and the memory layout of the values.
    pub memory: &'static str,
    /// The flags and snippets, any one of which brings the binding; if empty, it is in every form.
    pub when: &'static [&'static str],
}

/// What a shader does with a binding.
///
/// Every storage buffer is declared `read_write`, since Burn's runtime binds them all that way; this is what the shader
/// really does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It only writes.
    Write,
    /// It reads the contents and overwrites them.
    ReadWrite,
    /// It reads a uniform block.
    Uniform,
}

impl Shader {
    /// The bindings of a form with their indices.
    pub fn bindings(&self, form: &Form) -> impl Iterator<Item = (usize, &'static Binding)> {
        let there = |binding: &&Binding| {
            let mut when = binding.when.iter();
            binding.when.is_empty() || when.any(|name| form.has(name))
        };
        self.bindings.iter().filter(there).enumerate()
    }
}
