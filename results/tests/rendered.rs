//! docs/results.md, its plots and the model card's table are what `render` makes of the records, and nothing else.

use std::fs;
use std::path::Path;

use esolm_results::render;

#[test]
fn the_page_and_its_plots_are_rendered_from_the_records() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository");
    let files = render::files(root).expect("the records are whole");
    assert!(files.len() > 1, "there are records in docs/results");
    assert!(files.contains_key(Path::new("models/stories/README.md")));
    for (path, text) in &files {
        let found = fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(
            found == *text,
            "{} is not what its records make; run `cargo xtask results render`, and edit results/page.md instead",
            path.display()
        );
    }
    // A plot that no record makes any more would stay unseen.
    for entry in fs::read_dir(root.join("docs/results")).expect("there") {
        let name = entry.expect("readable").file_name();
        let path = Path::new("docs/results").join(&name);
        let is_plot = path.extension().is_some_and(|extension| extension == "svg");
        assert!(
            !is_plot || files.contains_key(&path),
            "{} is left over",
            path.display()
        );
    }
}
