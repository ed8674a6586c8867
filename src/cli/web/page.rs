//! The page: its text, its look, its behaviour.

use serde::Serialize;

pub(super) const CSS: &str = include_str!("page.css");
pub(super) const JS: &str = include_str!("page.js");
const HTML: &str = include_str!("page.html");

/// What a browser may do with a page that is one file: show it.
const ALONE: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The page as one file that needs nothing else. `data` is what it shows.
pub(super) fn alone(title: &str, data: &impl Serialize) -> String {
    let policy = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{ALONE}\">");
    let data = serde_json::to_string(data).expect("its maps have keys of text");
    // Inside of a script element `<` could end it, or begin a comment.
    let data = data.replace('<', "\\u003c");
    fill(&[
        ("{{policy}}", &policy),
        ("{{title}}", &escape(title)),
        ("{{style}}", &format!("<style>\n{CSS}</style>")),
        ("{{script}}", &format!("<script>\n{JS}</script>")),
        ("{{data}}", &data),
    ])
}

/// The page that asks the server it came from.
pub(super) fn served() -> String {
    fill(&[
        ("{{policy}}", ""),
        ("{{title}}", "resnet-zoo"),
        ("{{style}}", "<link rel=\"stylesheet\" href=\"/page.css\">"),
        ("{{script}}", "<script src=\"/page.js\"></script>"),
        ("{{data}}", "null"),
    ])
}

/// Puts the parts into the page, from its beginning to its end, so that what is put in is not looked at again.
fn fill(parts: &[(&str, &str)]) -> String {
    let mut page = String::new();
    let mut rest = HTML;
    while let Some(at) = rest.find("{{") {
        page.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, value) =
            parts.iter().find(|(name, _)| rest.starts_with(name)).expect("the page asks for known parts");
        page.push_str(value);
        rest = &rest[name.len()..];
    }
    page + rest
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_says_stays_text() {
        let page = alone("</title><b>", &serde_json::json!({"name": "</script><!--{{style}}"}));
        assert!(page.contains("<title>&lt;/title&gt;&lt;b&gt;</title>"), "{page}");
        assert!(page.contains(r#"{"name":"\u003c/script>\u003c!--{{style}}"}"#));
        assert_eq!(page.matches("</script>").count(), 2, "the data's and the program's own");
        for address in ["http://", "https://", "//cdn", "@import", "url("] {
            let outside = page.replace("http://www.w3.org/", "");
            assert!(!outside.contains(address), "the page needs {address}");
        }
    }
}
