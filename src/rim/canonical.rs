//! Canonical XML 1.1 without comments, of what [`xml`](super::xml) reads: a document without one of its elements, or one element.
//!
//! What makes canonical XML hard (document types, inherited `xml:` attributes, namespaces taken back) was refused by the reader.

use std::collections::BTreeMap;

use super::xml::{Attribute, Element, Node};

/// Writes `element`. Children of the root for which `left_out` holds are left out, as the enveloped signature is.
pub(super) fn written(element: &Element, left_out: &dyn Fn(&Element) -> bool) -> Vec<u8> {
    let mut out = String::new();
    write(element, &BTreeMap::new(), left_out, &mut out);
    out.into_bytes()
}

/// `rendered` is what the element above has written of namespaces: nothing for the first one, so that it writes all in force.
fn write(
    element: &Element,
    rendered: &BTreeMap<String, String>,
    left_out: &dyn Fn(&Element) -> bool,
    out: &mut String,
) {
    out.push('<');
    out.push_str(&element.name);
    // The map is in the order of prefixes, the default namespace first.
    for (prefix, namespace) in &element.scope {
        if rendered.get(prefix) != Some(namespace) {
            let (colon, prefix) = if prefix.is_empty() {
                ("", "")
            } else {
                (":", prefix.as_str())
            };
            out.push_str(" xmlns");
            out.push_str(colon);
            out.push_str(prefix);
            value(namespace, out);
        }
    }
    let mut attributes: Vec<&Attribute> = element.attributes.iter().collect();
    attributes.sort_by(|a, b| (&a.namespace, &a.local).cmp(&(&b.namespace, &b.local)));
    for attribute in attributes {
        out.push(' ');
        out.push_str(&attribute.name);
        value(&attribute.value, out);
    }
    out.push('>');
    for child in &element.children {
        match child {
            Node::Text(text) => characters(text, out),
            Node::Element(child) if left_out(child) => {}
            Node::Element(child) => write(child, &element.scope, left_out, out),
        }
    }
    out.push_str("</");
    out.push_str(&element.name);
    out.push('>');
}

fn value(text: &str, out: &mut String) {
    out.push_str("=\"");
    for it in text.chars() {
        match it {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn characters(text: &str, out: &mut String) {
    for it in text.chars() {
        match it {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let element = Element::parse(text.as_bytes()).unwrap();
        String::from_utf8(written(&element, &|_| false)).unwrap()
    }

    #[test]
    fn what_is_written_is_canonical_xml() {
        for (text, expected) in [
            ("<a/>", "<a></a>"),
            (
                "<?xml version=\"1.0\"?>\n<a  b='1'\n c = \"2\"></a >\n",
                "<a b=\"1\" c=\"2\"></a>",
            ),
            ("<a c='2' b='1'/>", "<a b=\"1\" c=\"2\"></a>"),
            (
                "<a b='\"&amp;&lt;>&#9;&#10;&#xD;\t\n'>&lt;&gt;&amp;&quot;\r\n\r&#13;</a>",
                "<a b=\"&quot;&amp;&lt;>&#x9;&#xA;&#xD;  \">&lt;&gt;&amp;\"\n\n&#xD;</a>",
            ),
            // Namespaces by prefix, default first; attributes by namespace, those of none first.
            (
                "<a xmlns:z='urn:1' xmlns='urn:0' z:a='1' xmlns:b='urn:2' b:a='2' c='3'/>",
                "<a xmlns=\"urn:0\" xmlns:b=\"urn:2\" xmlns:z=\"urn:1\" c=\"3\" z:a=\"1\" b:a=\"2\"></a>",
            ),
            // What is declared again is written once, what is declared otherwise is written.
            (
                "<a xmlns:p='urn:1'><p:b xmlns:p='urn:1'/><p:b xmlns:p='urn:2'><p:c/></p:b></a>",
                "<a xmlns:p=\"urn:1\"><p:b></p:b><p:b xmlns:p=\"urn:2\"><p:c></p:c></p:b></a>",
            ),
        ] {
            assert_eq!(canonical(text), expected);
            assert_eq!(
                canonical(expected),
                expected,
                "it is its own canonical form"
            );
        }
    }

    #[test]
    fn an_element_by_itself_carries_all_namespaces_in_force() {
        let outer = Element::parse(b"<a xmlns='urn:0' xmlns:p='urn:1'><b/></a>").unwrap();
        let inner = outer.elements().unwrap()[0];
        let text = String::from_utf8(written(inner, &|_| false)).unwrap();
        assert_eq!(text, "<b xmlns=\"urn:0\" xmlns:p=\"urn:1\"></b>");
        let rest = written(&outer, &|it| it.local == "b");
        assert_eq!(rest, b"<a xmlns=\"urn:0\" xmlns:p=\"urn:1\"></a>");
    }
}
