//! The paths by which Katib knows that a job has succeeded or failed: the part of GJSON that such paths use.
//!
//! `status.conditions.#(type=="Complete")#|#(status=="True")#`: fields, positions, `#(...)` for the first and `#(...)#` for all
//! members of a list that fit, `@this`, and `[@this]` for a list of what was found.

use serde_json::Value as Json;

/// One step of a path, and whether it is taken from each member of what was found (`.`) or from all of it (`|`).
#[derive(Clone, Debug, PartialEq)]
struct Step {
    what: What,
    is_piped: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Field(String),
    This,
    ListOfThis,
    Where { query: Query, all: bool },
}

#[derive(Clone, Debug, PartialEq)]
struct Query {
    path: String,
    /// An operator with what is compared; without one, being there is enough.
    test: Option<(Operator, Json)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Is,
    IsNot,
    Least,
    More,
    Most,
    Less,
}

const OPERATORS: [(&str, Operator); 7] = [
    ("==", Operator::Is),
    ("!=", Operator::IsNot),
    ("<=", Operator::Most),
    (">=", Operator::Least),
    ("<", Operator::Less),
    (">", Operator::More),
    ("=", Operator::Is),
];

/// What is wrong with a path.
pub(super) fn check(path: &str) -> Result<(), String> {
    steps(path).map(|_| ())
}

/// Whether a path finds something in a job; with the reason and the message of the first of what it finds.
pub(super) fn matched(path: &str, job: &Json) -> Option<(Option<String>, Option<String>)> {
    let found = get(path, job)?;
    let first = match &found {
        Json::Object(_) => &found,
        Json::Array(members) => members.first()?,
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => return None,
    };
    let text = |name: &str| first.get(name).and_then(Json::as_str).map(str::to_owned);
    Some((text("reason"), text("message")))
}

fn get(path: &str, root: &Json) -> Option<Json> {
    walk(&steps(path).ok()?, root)
}

fn walk(steps: &[Step], value: &Json) -> Option<Json> {
    let Some((step, rest)) = steps.split_first() else { return Some(value.clone()) };
    match &step.what {
        What::This => walk(rest, value),
        What::ListOfThis => walk(rest, &Json::Array(vec![value.clone()])),
        What::Field(name) => {
            let inner = match value.as_array() {
                Some(members) => members.get(name.parse::<usize>().ok()?)?,
                None => value.get(name)?,
            };
            walk(rest, inner)
        }
        What::Where { query, all } => {
            let mut fitting = value.as_array()?.iter().filter(|member| fits(query, member));
            if !*all {
                return walk(rest, fitting.next()?);
            }
            // What follows a point is taken from each, what follows a pipe from the list.
            let each = rest.iter().take_while(|step| !step.is_piped).count();
            let (each, whole) = rest.split_at(each);
            let found: Vec<Json> = fitting.filter_map(|member| walk(each, member)).collect();
            walk(whole, &Json::Array(found))
        }
    }
}

fn fits(query: &Query, member: &Json) -> bool {
    let found = if query.path.is_empty() { Some(member.clone()) } else { get(&query.path, member) };
    let (Some(found), Some((operator, wanted))) = (&found, &query.test) else {
        return found.is_some() && query.test.is_none();
    };
    let order = match (found, wanted) {
        (Json::Number(one), Json::Number(other)) => one.as_f64().partial_cmp(&other.as_f64()),
        (Json::String(one), Json::String(other)) => Some(one.cmp(other)),
        _ => None,
    };
    match operator {
        Operator::Is => found == wanted || order.is_some_and(std::cmp::Ordering::is_eq),
        Operator::IsNot => found != wanted && !order.is_some_and(std::cmp::Ordering::is_eq),
        Operator::Least => order.is_some_and(std::cmp::Ordering::is_ge),
        Operator::More => order.is_some_and(std::cmp::Ordering::is_gt),
        Operator::Most => order.is_some_and(std::cmp::Ordering::is_le),
        Operator::Less => order.is_some_and(std::cmp::Ordering::is_lt),
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    if path.trim().is_empty() {
        return Err("a condition is a path in the job, such as status.conditions.#(type==\"Complete\")#".to_owned());
    }
    let mut all = Vec::new();
    let (mut rest, mut is_piped) = (path, false);
    loop {
        let (what, after) = step(rest).map_err(|message| format!("{message}, in `{path}`"))?;
        all.push(Step { what, is_piped });
        let mut signs = after.chars();
        match signs.next() {
            None => return Ok(all),
            Some(sign @ ('.' | '|')) => (rest, is_piped) = (signs.as_str(), sign == '|'),
            Some(sign) => return Err(format!("expected `.` or `|` and not `{sign}`, in `{path}`")),
        }
    }
}

fn step(path: &str) -> Result<(What, &str), String> {
    if let Some(inner) = path.strip_prefix("#(") {
        let end = closing(inner).ok_or("`#(` has no `)`")?;
        let query = query(&inner[..end])?;
        let after = &inner[end + 1..];
        let (all, after) = after.strip_prefix('#').map_or((false, after), |after| (true, after));
        return Ok((What::Where { query, all }, after));
    }
    if let Some(after) = path.strip_prefix("[@this]") {
        return Ok((What::ListOfThis, after));
    }
    if let Some(after) = path.strip_prefix("@this") {
        return Ok((What::This, after));
    }
    let mut name = String::new();
    let mut signs = path.char_indices();
    let mut end = path.len();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '\\' => name.extend(signs.next().map(|(_, escaped)| escaped)),
            '.' | '|' => {
                end = at;
                break;
            }
            '#' | '@' | '[' | '{' | '*' | '?' | '!' => return Err(format!("`{sign}` is not understood here")),
            _ => name.push(sign),
        }
    }
    if name.is_empty() {
        return Err("a name is missing".to_owned());
    }
    Ok((What::Field(name), &path[end..]))
}

/// Where the parenthesis ends that was opened before.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut is_quoted, mut is_escaped) = (0_u32, false, false);
    for (at, sign) in text.char_indices() {
        match sign {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '(' if !is_quoted => depth += 1,
            ')' if !is_quoted => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return Some(at),
            },
            _ => {}
        }
    }
    None
}

fn query(text: &str) -> Result<Query, String> {
    let quote = text.find('"').unwrap_or(text.len());
    let found = OPERATORS.iter().filter_map(|(sign, operator)| Some((text[..quote].find(sign)?, *sign, *operator)));
    // The first sign, and of those that begin there the longest.
    let first = found.min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
    let Some((at, sign, operator)) = first else {
        return Ok(Query { path: text.trim().to_owned(), test: None });
    };
    let wanted = text[at + sign.len()..].trim();
    let wanted = serde_json::from_str(wanted).unwrap_or_else(|_| Json::String(wanted.to_owned()));
    Ok(Query { path: text[..at].trim().to_owned(), test: Some((operator, wanted)) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job() -> Json {
        json!({"status": {"phase": "Succeeded", "count": 3, "conditions": [
            {"type": "Complete", "status": "False", "reason": "a"},
            {"type": "Complete", "status": "True", "reason": "b", "message": "done"},
            {"type": "Failed", "status": "False"},
        ]}})
    }

    #[test]
    fn paths_of_manifests_find_what_they_mean() {
        let table = [
            (r#"status.conditions.#(type=="Complete")#|#(status=="True")#"#, Some("b")),
            (r#"status.conditions.#(type=="Failed")#|#(status=="True")#"#, None),
            (r#"status.conditions.#(type=="Complete")#"#, Some("a")),
            (r#"status.conditions.#(status=="True")"#, Some("b")),
            (r#"status.conditions.1"#, Some("b")),
            (r#"status.conditions.#(type!="Failed")#|#(reason>"a")#"#, Some("b")),
            (r#"status.conditions.#(message)#"#, Some("b")),
            (r#"status.[@this].#(count>=3)#|0.conditions.1"#, Some("b")),
            ("status.nothing", None),
            ("status.phase", None),
        ];
        for (path, reason) in table {
            let found = matched(path, &job());
            assert_eq!(found.as_ref().map(|(found, _)| found.as_deref()), reason.map(Some), "{path}");
        }
        let argo = r#"status.[@this].#(phase=="Succeeded")#"#;
        assert_eq!(matched(argo, &job()), Some((None, None)));
        assert_eq!(matched(argo, &json!({"status": {"phase": "Running"}})), None);
    }

    #[test]
    fn what_is_not_understood_is_told() {
        assert_eq!(check("status.conditions"), Ok(()));
        assert!(check("").is_err_and(|told| told.contains("is a path in the job")));
        assert!(check("a.#(b==1").is_err_and(|told| told.contains("has no `)`")));
        assert!(check("a.*").is_err_and(|told| told.contains("`*` is not understood")));
        assert!(check("a..b").is_err_and(|told| told.contains("a name is missing")));
    }
}
