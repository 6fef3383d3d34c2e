"""What a program will import, and what it does to its environment first, read from its files without running them."""

import ast
import importlib.machinery
import os
import site
import sys
import sysconfig

# Functions that change the environment in ways that cannot be read here.
SETTERS = ("putenv", "unsetenv", "load_dotenv")


def installed():
    """Folders of the standard library and of installed packages."""
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found.update(site.getsitepackages() if hasattr(site, "getsitepackages") else [])
    if site.ENABLE_USER_SITE:
        found.add(site.getusersitepackages())
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in found if folder)


def find(name, path):
    """The spec of a top-level module, looked up without importing anything; None if there is none."""
    try:
        return importlib.machinery.PathFinder.find_spec(name, path)
    except (ImportError, ValueError, AttributeError):
        return None


def places(spec):
    """Files or folders that a spec stands for."""
    if spec.origin and spec.has_location:
        return [spec.origin]
    return list(spec.submodule_search_locations or [])


class Program:
    """The top of a program's own files, in the order in which it would be run.

    `steps` holds ("import", module), ("attribute", module, name) for `from module import name`, and ("set", variable,
    value) or ("default", variable, value) for what the program does to its environment between imports. Reading stops
    at a change of the environment that is not plain text, because what is imported after it may depend on it; then
    `whole` is False. `late` names the variables that functions set at some time; None stands for any.
    """

    def __init__(self, path):
        self.path, self.roots = path, installed()
        self.steps, self.read, self.late = [], set(), set()
        self.whole = True

    def script(self, path):
        self.file(path)
        return self

    def module(self, name):
        """`python -m name`: the packages above it are imported first."""
        parts, path = name.split("."), self.path
        for depth, part in enumerate(parts):
            spec = find(part if depth == 0 else ".".join(parts[: depth + 1]), path)
            if spec is None:
                return self
            last = depth + 1 == len(parts)
            if not self.own(spec):
                if not last:
                    self.steps.append(("import", ".".join(parts[: depth + 1])))
            elif spec.origin and spec.origin.endswith(".py"):
                self.file(spec.origin)
            path = spec.submodule_search_locations
            if last and path:
                inner = find(name + ".__main__", path)
                if inner is not None and inner.origin and inner.origin.endswith(".py"):
                    self.file(inner.origin)
        return self

    def own(self, spec):
        """Whether a module is the program's own: neither installed nor built in."""
        return not all(os.path.realpath(place).startswith(self.roots) for place in places(spec))

    def file(self, path):
        path = os.path.realpath(path)
        if path in self.read or not self.whole:
            return
        self.read.add(path)
        try:
            with open(path, "rb") as source:
                tree = ast.parse(source.read(), path)
        except (OSError, SyntaxError, ValueError, RecursionError):
            self.whole = False  # The program itself will say so.
            return
        for inner in ast.walk(tree):
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                self.late.update(variable for variable, _, _ in changes(inner))
        self.body(tree.body)

    def body(self, statements):
        for statement in statements:
            if not self.whole:
                return
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    self.name(alias.name)
            elif isinstance(statement, ast.ImportFrom):
                if statement.module and not statement.level:
                    self.name(statement.module)
                    for alias in statement.names:
                        if alias.name != "*":
                            self.attribute(statement.module, alias.name)
            elif isinstance(statement, ast.Try):
                self.body(statement.body)
            elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.environment(statement)

    def environment(self, statement):
        for variable, kind, value in changes(statement):
            plain = isinstance(statement, (ast.Assign, ast.Expr)) and variable is not None and value is not None
            if not plain:
                self.whole = False
                return
            self.steps.append((kind, variable, value))

    def name(self, name):
        top = name.partition(".")[0]
        if top in sys.builtin_module_names or ("import", name) in self.steps:
            return
        spec = find(top, self.path)
        if spec is None or not places(spec):
            return
        if not self.own(spec):
            self.steps.append(("import", name))
            return
        # The program's own: not imported, which would run it, but read.
        path = None
        for depth, part in enumerate(name.split(".")):
            if depth:
                spec = find(".".join(name.split(".")[: depth + 1]), path)
            if spec is None:
                return
            if spec.origin and spec.origin.endswith(".py"):
                self.file(spec.origin)
            path = spec.submodule_search_locations

    def attribute(self, module, name):
        """`from module import name`: which may be a module, and in lazy packages imports one."""
        if ("import", module) in self.steps:
            self.steps.append(("attribute", module, name))
            return
        spec = find(module.partition(".")[0], self.path)
        if spec is not None and places(spec) and self.own(spec) and spec.submodule_search_locations:
            self.name(module + "." + name)


def changes(tree):
    """(variable, "set" or "default", value) for each change of os.environ in a piece of a program; None: not plain."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
            targets = getattr(node, "targets", None) or [node.target]
            for target in targets:
                if isinstance(target, ast.Subscript) and is_environment(target.value):
                    value = text(node.value) if isinstance(node, ast.Assign) else None
                    found.append((text(target.slice), "set", value))
                elif is_environment(target):
                    found.append((None, "set", None))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in SETTERS:
                found.append((text(node.args[0]) if node.args and name != "load_dotenv" else None, "set", None))
            elif isinstance(node.func, ast.Attribute) and is_environment(node.func.value):
                if name == "setdefault" and len(node.args) == 2:
                    found.append((text(node.args[0]), "default", text(node.args[1])))
                elif name == "pop" and node.args:
                    found.append((text(node.args[0]), "set", None))
                elif name in ("setdefault", "pop", "update", "clear", "popitem"):
                    found.append((None, "set", None))
    return found


def is_environment(node):
    """`os.environ`, `environ`, `os.environb`."""
    return getattr(node, "attr", getattr(node, "id", "")) in ("environ", "environb")


def text(node):
    """The text that an expression plainly is; else None."""
    if type(node).__name__ == "Index":  # Python 3.8
        node = node.value
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
