//! Columns of `kubectl get`.

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `date`…
    pub kind: &'static str,
    /// `name` for the name of the object, else empty.
    pub format: &'static str,
    /// What it says.
    pub description: &'static str,
    /// 0: always shown; 1: shown by `-o wide`.
    pub priority: i32,
    /// Where the value is; `None` for cells that are computed by the table writer.
    pub json_path: Option<&'static str>,
}
