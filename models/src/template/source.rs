//! What Hugging Face's templates write that Jinja itself does not have.

/// `{% generation %}` marks the assistant's text for training and renders as nothing: it becomes a condition that always
/// holds, which keeps the tag's control of white space.
pub(super) fn adapt(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        out.push_str(before);
        match tag.trim_matches(['{', '}', '%', '-', '+', ' ', '\n', '\t']) {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}
