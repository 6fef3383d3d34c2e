//! Expressions over parameters: when a parameter is used, and which configurations are allowed.
//!
//! ```text
//! expression = disjunction
//! operators, loosest first: or | and | not | == != < <= > >= in "not in" | + - | * / % | unary - | **
//! values: 0.5  1e-3  true  false  'text'  "text"  [list, of, values]
//! names: letters, digits, _ and . ; any other name in backquotes: `learning-rate`
//! functions: abs ceil exp floor log log10 log2 max min sqrt
//! ```
//!
//! A parameter that is not used has no value. What depends on it has none either, except where the rest decides: `false and x` is
//! false, `true or x` is true.

mod evaluate;
mod parse;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeSet;
use std::fmt;

pub use evaluate::{Kind, Scope};

use crate::space::Value;

/// A parsed expression. It remembers its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    root: Node,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// Where in the text, in bytes from its start.
    pub at: usize,
    /// What was found, what was expected, and the nearest name.
    pub message: String,
}

impl Expression {
    /// Parses the text of an expression.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let root = parse::parse(text)?;
        Ok(Self { text: text.to_owned(), root })
    }

    /// The text it was parsed from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of the parameters in it.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        self.root.walk(&mut |node| {
            if let Form::Name(name) = &node.form {
                names.insert(name.as_str());
            }
        });
        names
    }

    /// Checks it against the parameters that there are: it has to be true or false, names have to exist, and what is compared has to be
    /// comparable.
    pub fn check(&self, scope: &dyn Scope) -> Result<(), ExpressionError> {
        let found = evaluate::check(&self.root, scope)?;
        if found == Kind::Truth {
            return Ok(());
        }
        Err(ExpressionError { at: 0, message: format!("expected a condition that is true or false, found {found}") })
    }

    /// Whether it is true with these values. `None` where that depends on a parameter without a value, or on an operation without a
    /// result, such as a division by zero.
    pub fn holds<'values>(&self, value: &dyn Fn(&str) -> Option<&'values Value>) -> Option<bool> {
        evaluate::holds(&self.root, value)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    /// Where it begins in the text.
    at: usize,
    form: Form,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Value(Value),
    Name(String),
    List(Vec<Node>),
    Not(Box<Node>),
    Minus(Box<Node>),
    Two(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Abs,
    Ceil,
    Exp,
    Floor,
    Log,
    Log10,
    Log2,
    Max,
    Min,
    Sqrt,
}

impl Function {
    const ALL: [(&'static str, Self); 10] = [
        ("abs", Self::Abs),
        ("ceil", Self::Ceil),
        ("exp", Self::Exp),
        ("floor", Self::Floor),
        ("log", Self::Log),
        ("log10", Self::Log10),
        ("log2", Self::Log2),
        ("max", Self::Max),
        ("min", Self::Min),
        ("sqrt", Self::Sqrt),
    ];
}

impl Node {
    fn walk<'node>(&'node self, visit: &mut impl FnMut(&'node Self)) {
        visit(self);
        match &self.form {
            Form::Value(_) | Form::Name(_) => {}
            Form::List(nodes) | Form::Call(_, nodes) => nodes.iter().for_each(|node| node.walk(visit)),
            Form::Not(node) | Form::Minus(node) => node.walk(visit),
            Form::Two(_, left, right) => {
                left.walk(visit);
                right.walk(visit);
            }
        }
    }
}
