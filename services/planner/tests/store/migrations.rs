//! What a migration may do.

use std::path::Path;

/// A rolling upgrade runs two versions on one schema: what the older one uses stays as it is.
#[test]
fn migrations_take_nothing_from_planners_of_the_version_before() {
    let mut statements = 0;
    for service in ["planner", "health"] {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(service).join("migrations/postgres");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
            let code = text.lines().map(|line| line.split("--").next().unwrap_or(line));
            let code = code.collect::<Vec<_>>().join(" ");
            for statement in code.split(';').map(str::trim) {
                statements += 1;
                let words: Vec<_> = statement.split_whitespace().collect();
                let words = words.join(" ");
                for taken in ["drop ", "rename ", "or replace ", "alter column ", "set not null", "truncate "]
                {
                    assert!(!words.contains(taken), "{}: {words}", path.display());
                }
                let adds_required = words.starts_with("alter table")
                    && words.contains("add column")
                    && words.contains("not null")
                    && !words.contains("default");
                assert!(!adds_required, "{}: {words}", path.display());
            }
        }
    }
    assert!(statements > 20, "{statements}");
}
