//! `esolm convert`: any readable checkpoint as a Hugging Face folder.

use esolm::checkpoint::write_hf_folder;

use crate::arguments::Convert;
use crate::failure::Failure;
use crate::{files, output, setup};

pub fn run(arguments: &Convert) -> Result<(), Failure> {
    let out = &arguments.output;
    files::check_folder(out)?;
    if !arguments.force && out.join("model.safetensors").exists() {
        return Err(Failure::usage(format!(
            "{} holds a model already; give another folder, or --force to replace it",
            out.display()
        )));
    }
    let (checkpoint, _) = setup::described(&arguments.source, &arguments.input)?;
    write_hf_folder(&checkpoint, out, arguments.dtype.into())?;
    let config = checkpoint.config();
    let parameters: u64 = config.parameters().iter().map(|p| p.elements()).sum();
    output::note(&format!(
        "{}: {}, {parameters} parameters as {}",
        out.display(),
        config.family,
        match arguments.dtype {
            crate::arguments::DtypeName::F32 => "f32",
            crate::arguments::DtypeName::F16 => "f16",
        }
    ));
    Ok(())
}
