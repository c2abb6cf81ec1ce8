//! The commands of README and docs do what the pages say.

use harness::{Dev, Scratch, documents};

fn check(page: &str) {
    let scratch = Scratch::new();
    assert!(documents::run_page(page, scratch.path()) > 0, "{page} has no commands");
}

#[test]
fn the_readme_tells_the_truth() {
    check("README.md");
}

#[test]
fn operating_tells_the_truth() {
    check("docs/operating.md");
}

#[test]
fn the_quickstart_tells_the_truth() {
    check("docs/quickstart.md");
}

#[test]
fn the_commands_do_what_their_page_says() {
    check("docs/commands.md");
}

/// Pages in docs whose commands are run above; one whose commands nobody runs would rot.
const RUN: &[&str] = &["operating.md", "quickstart.md", "commands.md"];

#[test]
fn every_page_with_commands_is_run() {
    let docs = std::fs::read_dir(harness::binary::workspace().join("docs")).expect("docs");
    for page in docs {
        let page = page.expect("an entry").file_name().into_string().expect("a plain name");
        let text =
            std::fs::read_to_string(harness::binary::workspace().join("docs").join(&page)).expect("readable");
        assert!(
            RUN.contains(&page.as_str()) || documents::steps(&text).is_empty(),
            "docs/{page} has commands: add a test"
        );
    }
}

/// What `/metrics` shows stands in docs/operating.md, name by name.
#[test]
fn every_metric_is_documented() {
    let scratch = Scratch::new();
    let node = Dev::new(&scratch.join("node")).fixed_ports().start();
    let (_, text) = node.admin("/metrics").expect("the admin endpoint answers");
    let page =
        std::fs::read_to_string(harness::binary::workspace().join("docs/operating.md")).expect("readable");
    let mut count = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap_or_default();
        let short =
            name.strip_prefix("catena_shard_").or_else(|| name.strip_prefix("catena_node_")).unwrap_or(name);
        let documented = page.contains(&format!("`{short}`")) || page.contains(&format!("`{name}`"));
        assert!(documented, "docs/operating.md doesn't name {name}");
        count += 1;
    }
    assert!(count > 20, "only {count} metrics");
}
