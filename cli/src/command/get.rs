//! `trainyard get`.

use std::io::Write as _;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::api::{self, Change};
use crate::arg::Global;
use crate::error::CliError;
use crate::output::duration;
use crate::output::object::{self, Format, Markup};
use crate::output::table::Table;
use crate::resource::{Discovery, Resource};
use crate::session::{self, Session};

/// List objects; without a kind: all jobs.
///
/// KIND is a plural, singular or short name, as in kubectl: pods, pod, po, trainingjobs, tj, pytorchjobs, svc, events, nodes, …
/// `jobs` means jobs of every kind; `jobs.batch` only those of batch/v1. Tables come from the server, so they show what kubectl shows.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trainyard get                        all jobs of the namespace
  trainyard get -A                     all jobs of all namespaces
  trainyard get pods -l training.kubeflow.org/job-name=wine-ddp
  trainyard get trainingjob wine-ddp -o yaml
  trainyard get pods -w                print a line for each change")]
pub(crate) struct Args {
    /// A kind, kinds with commas between them, or KIND/NAME (default: jobs)
    #[arg(value_name = "KIND")]
    kind: Option<String>,
    /// Only these objects
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print as wide table, JSON, YAML, or names
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Only objects with these labels, as in kubectl: a=b,c!=d,e in (f,g)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields: metadata.name=x,status.phase=Running
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Print a line for each change, until stopped
    #[arg(short, long)]
    watch: bool,
    /// Leave the table's head out
    #[arg(long)]
    no_headers: bool,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<u8, CliError> {
    session::with(global, async |session| {
        let discovery = Discovery::of_session(session).await?;
        let query = Query { session, args: &args };
        let wanted = query.resources(&discovery).await?;
        match args.output {
            Some(Format::Json) => query.print(&wanted, Markup::Json).await,
            Some(Format::Yaml) => query.print(&wanted, Markup::Yaml).await,
            Some(Format::Name) => query.print_names(&wanted).await,
            Some(Format::Wide) | None => query.print_tables(&wanted).await,
        }
    })
}

struct Query<'a> {
    session: &'a Session,
    args: &'a Args,
}

/// What to list: kinds, and the names within them (none: all).
struct Wanted {
    resources: Vec<Resource>,
    names: Vec<String>,
    /// All job kinds together, in our own table.
    jobs: bool,
}

impl Query<'_> {
    async fn resources(&self, discovery: &Discovery) -> Result<Wanted, CliError> {
        let all_jobs = |names| Wanted { resources: discovery.jobs().cloned().collect(), names, jobs: true };
        let names = self.args.names.clone();
        let Some(word) = self.args.kind.as_deref() else { return Ok(all_jobs(names)) };
        if let Some((kind, name)) = word.split_once('/') {
            let resource = discovery.need(kind)?.clone();
            return Ok(Wanted { resources: vec![resource], names: vec![name.to_owned()], jobs: false });
        }
        if matches!(word, "jobs" | "job") {
            return Ok(all_jobs(names));
        }
        // `trainyard get wine-ddp` is what people type: a job's name where a kind is expected.
        if names.is_empty() && discovery.find(word).is_none() && !word.contains(',') {
            let found = crate::target::by_name(self.session, discovery, word).await?;
            if let Some(found) = found {
                return Ok(Wanted { resources: vec![found.resource], names: vec![word.to_owned()], jobs: false });
            }
        }
        let mut resources = Vec::new();
        for word in word.split(',') {
            resources.push(discovery.need(word)?.clone());
            // Experiments and trials are ours or Katib's: a list shows both.
            let others = discovery.all(word).into_iter().filter(|other| other.group == "kubeflow.org");
            if names.is_empty() {
                resources.extend(others.filter(|other| !resources.contains(other)).cloned().collect::<Vec<_>>());
            }
        }
        Ok(Wanted { resources, names, jobs: false })
    }

    fn namespace(&self) -> Option<&str> {
        (!self.args.all_namespaces).then_some(self.session.namespace.as_str())
    }

    fn path(&self, resource: &Resource, name: Option<&str>, more: &str) -> String {
        let mut path = match name {
            Some(name) => resource.object(&self.session.namespace, name),
            None => resource.collection(self.namespace()),
        };
        let selectors = [("labelSelector", &self.args.selector), ("fieldSelector", &self.args.field_selector)];
        let parts = selectors
            .iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={}", api::query(value))));
        let query: Vec<String> = parts.chain((!more.is_empty()).then(|| more.to_owned())).collect();
        if !query.is_empty() {
            path.push('?');
            path.push_str(&query.join("&"));
        }
        path
    }

    /// Objects, each with its kind.
    async fn objects(&self, wanted: &Wanted) -> Result<Vec<(Resource, Value)>, CliError> {
        let mut objects = Vec::new();
        let mut forbidden = Vec::new();
        for resource in &wanted.resources {
            if wanted.names.is_empty() {
                let list = match self.session.api.get(&self.path(resource, None, "")).await {
                    Ok(list) => list,
                    // `get` alone means all jobs that the user may see.
                    Err(error) if wanted.jobs && error.code() == Some(403) => {
                        forbidden.push(error);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                for item in list["items"].as_array().into_iter().flatten() {
                    let mut item = item.clone();
                    item["apiVersion"] = Value::from(resource.api_version());
                    item["kind"] = Value::from(resource.kind.as_str());
                    objects.push((resource.clone(), item));
                }
            }
            for name in &wanted.names {
                match self.session.api.get(&self.path(resource, Some(name), "")).await {
                    Ok(object) => objects.push((resource.clone(), object)),
                    Err(error) if error.is_not_found() && wanted.jobs => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if forbidden.len() == wanted.resources.len()
            && let Some(error) = forbidden.pop()
        {
            return Err(error.into());
        }
        let absent = wanted
            .names
            .iter()
            .find(|name| !objects.iter().any(|(_, object)| object["metadata"]["name"] == name.as_str()));
        match absent {
            Some(name) => Err(CliError::NotFound {
                what: format!("job `{name}` in namespace `{}`", self.session.namespace),
                hint: "`trainyard get -A` lists the jobs of all namespaces".to_owned(),
            }),
            None => Ok(objects),
        }
    }

    async fn print(&self, wanted: &Wanted, markup: Markup) -> Result<u8, CliError> {
        let objects = self.objects(wanted).await?;
        let mut value = match (wanted.names.len(), objects.len()) {
            (1, 1) => objects.into_iter().next().map(|(_, object)| object).unwrap_or_default(),
            _ => json!({
                "apiVersion": "v1",
                "kind": "List",
                "metadata": {"resourceVersion": ""},
                "items": objects.into_iter().map(|(_, object)| object).collect::<Vec<_>>(),
            }),
        };
        object::without_managed_fields(&mut value);
        object::print(&mut std::io::stdout().lock(), &value, markup)?;
        Ok(0)
    }

    async fn print_names(&self, wanted: &Wanted) -> Result<u8, CliError> {
        let mut out = std::io::stdout().lock();
        for (resource, object) in self.objects(wanted).await? {
            writeln!(
                out,
                "{}/{}",
                resource.qualified_singular(),
                object["metadata"]["name"].as_str().unwrap_or_default()
            )?;
        }
        Ok(0)
    }

    async fn print_tables(&self, wanted: &Wanted) -> Result<u8, CliError> {
        if self.args.watch {
            return self.watch(wanted).await;
        }
        if wanted.jobs {
            return self.print_jobs(wanted).await;
        }
        let mut out = std::io::stdout().lock();
        let mut printed = 0;
        for resource in &wanted.resources {
            let table = self.table(resource, &wanted.names).await?;
            if table.rows.is_empty() {
                continue;
            }
            if printed > 0 {
                writeln!(out)?;
            }
            printed += 1;
            table.print(&mut out, !self.args.no_headers)?;
        }
        if printed == 0 {
            self.say_nothing_found(&wanted.resources, false);
        }
        Ok(0)
    }

    async fn table(&self, resource: &Resource, names: &[String]) -> Result<Table, CliError> {
        let wide = self.args.output == Some(Format::Wide);
        let namespace = self.args.all_namespaces && resource.namespaced;
        if names.is_empty() {
            let answer = self.session.api.table(&self.path(resource, None, "")).await?;
            return Ok(Table::of_server(&answer, wide, namespace));
        }
        let mut all = Table::default();
        for name in names {
            let answer = self.session.api.table(&self.path(resource, Some(name), "")).await?;
            let one = Table::of_server(&answer, wide, false);
            all.head = one.head;
            all.rows.extend(one.rows);
        }
        Ok(all)
    }

    async fn print_jobs(&self, wanted: &Wanted) -> Result<u8, CliError> {
        let objects = self.objects(wanted).await?;
        if objects.is_empty() {
            self.say_nothing_found(&wanted.resources, true);
            return Ok(0);
        }
        let mut objects: Vec<_> = objects.iter().map(|(resource, object)| (resource, object)).collect();
        objects.sort_by_key(|(_, object)| {
            std::cmp::Reverse(object["metadata"]["creationTimestamp"].as_str().unwrap_or_default())
        });
        let table = job_table(&objects, self.args.all_namespaces);
        table.print(&mut std::io::stdout().lock(), !self.args.no_headers)?;
        Ok(0)
    }

    fn say_nothing_found(&self, resources: &[Resource], jobs: bool) {
        let plurals = resources.iter().map(|resource| resource.plural.as_str()).collect::<Vec<_>>();
        let what = if jobs { "jobs".to_owned() } else { plurals.join(", ") };
        let place = match self.namespace() {
            Some(namespace) if resources.iter().any(|resource| resource.namespaced) => {
                format!(" in namespace `{namespace}`")
            }
            Some(_) | None => String::new(),
        };
        // Told on stderr, so that scripts see an empty table.
        let _ = writeln!(anstream::stderr(), "no {what} found{place}");
    }

    async fn watch(&self, wanted: &Wanted) -> Result<u8, CliError> {
        let streams =
            wanted.resources.iter().map(|resource| Box::pin(self.watch_one(resource, &wanted.names, wanted.jobs)));
        futures::future::try_join_all(streams).await?;
        Ok(0)
    }

    /// Prints a row for each change. The server sends what exists first.
    async fn watch_one(&self, resource: &Resource, names: &[String], jobs: bool) -> Result<(), CliError> {
        let wide = self.args.output == Some(Format::Wide);
        let namespace = self.args.all_namespaces && resource.namespaced;
        let mut with_head = !self.args.no_headers && !jobs;
        loop {
            let mut changes = self.session.api.watch(&self.path(resource, None, "watch=true"), true).await?;
            while let Some(change) = changes.next().await {
                let table = match change? {
                    Change::Present(table) | Change::Gone(table) => table,
                    Change::Bookmark => continue,
                    Change::Expired => break,
                };
                let mut table = Table::of_server(&table, wide, namespace);
                table.rows.retain(|row| {
                    names.is_empty() || row.get(usize::from(namespace)).is_some_and(|cell| names.contains(cell))
                });
                table.print(&mut std::io::stdout().lock(), std::mem::take(&mut with_head))?;
            }
        }
    }
}

fn job_table(objects: &[(&Resource, &Value)], namespace: bool) -> Table {
    let head: &[&str] = if namespace {
        &["NAMESPACE", "NAME", "KIND", "STATE", "STEP", "AGE"]
    } else {
        &["NAME", "KIND", "STATE", "STEP", "AGE"]
    };
    let mut table = Table::new(head);
    for (resource, object) in objects {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let progress = &object["status"]["progress"];
        let step = match (progress["step"].as_i64(), progress["totalSteps"].as_i64()) {
            (Some(step), Some(total)) => format!("{step}/{total}"),
            (Some(step), None) => step.to_string(),
            (None, _) => "-".to_owned(),
        };
        let row = [
            text(&metadata["name"]),
            resource.kind.clone(),
            crate::job::state(object),
            step,
            duration::age_of(metadata["creationTimestamp"].as_str()),
        ];
        let front = namespace.then(|| text(&metadata["namespace"]));
        table.rows.push(front.into_iter().chain(row).collect());
    }
    table
}
