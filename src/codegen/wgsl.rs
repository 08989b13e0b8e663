//! Text substitution for shaders: `{{NAME}}` and conditional lines.

/// Makes the final WGSL text of a template.
///
/// Each `{{NAME}}` becomes the value that `defines` gives to NAME (an unknown one stays, so that the WGSL parser complains about it). The
/// lines between `//#if NAME` and `//#endif` stay only where NAME is among the defines, whatever its value; `//#if !NAME` is the opposite,
/// `//#else` switches, blocks nest.
pub(crate) fn preprocess(source: &str, defines: &[(&str, &str)]) -> String {
    let value = |name: &str| defines.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let mut out = String::with_capacity(source.len() + 256);
    // Whether the lines of each open block are kept, and whether they would be if all blocks around it were.
    let mut open: Vec<(bool, bool)> = Vec::new();
    for line in source.lines() {
        let keep = open.last().is_none_or(|&(kept, _)| kept);
        if let Some(directive) = line.trim_start().strip_prefix("//#") {
            let (word, name) = directive.trim().split_once(' ').unwrap_or((directive.trim(), ""));
            let name = name.trim();
            match word {
                "if" => {
                    let holds = match name.strip_prefix('!') {
                        Some(n) => value(n.trim()).is_none(),
                        None => value(name).is_some(),
                    };
                    open.push((keep && holds, holds));
                }
                "else" => {
                    if let Some((_, holds)) = open.pop() {
                        let outer = open.last().is_none_or(|&(kept, _)| kept);
                        open.push((outer && !holds, !holds));
                    }
                }
                "endif" => drop(open.pop()),
                _ => {}
            }
            continue;
        }
        if !keep {
            continue;
        }
        let mut rest = line;
        while let Some(start) = rest.find("{{") {
            let known = rest[start..].find("}}").and_then(|n| Some((value(rest[start + 2..start + n].trim())?, start + n + 2)));
            let (text, end) = known.unwrap_or((&rest[start..start + 2], start + 2));
            out.push_str(&rest[..start]);
            out.push_str(text);
            rest = &rest[end..];
        }
        out.push_str(rest);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutes_and_selects() {
        let text = "a {{T}} {{ T }} {{U}}\n  //#if A\nx\n//#if !B\ny\n//#else\nz\n//#endif\n//#else\nw\n//#endif\nend";
        assert_eq!(preprocess(text, &[("T", "f32"), ("A", "")]), "a f32 f32 {{U}}\nx\ny\nend\n");
        assert_eq!(preprocess(text, &[("T", "f32"), ("A", ""), ("B", "1")]), "a f32 f32 {{U}}\nx\nz\nend\n");
        assert_eq!(preprocess(text, &[("U", "{{T}}")]), "a {{T}} {{ T }} {{T}}\nw\nend\n");
    }
}
