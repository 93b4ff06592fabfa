"""Rules of the house, read from the source of every module; each test is one rule.

A rule is a function of one module (`Module`) that yields its faults, and is itself tried on small
sources that break it. `modules()` parses the package once for all of them.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ftkeras"
INTERNALS = "ftkeras.keras_internals"


@dataclass(frozen=True)
class Module:
    """A module's dotted name and its parsed source."""

    name: str
    tree: ast.Module

    @classmethod
    def of(cls, path: Path) -> Module:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return cls(name, ast.parse(path.read_text(encoding="utf-8")))

    def fault(self, node: ast.AST, what: str) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 0)}: {what}"


Rule = Callable[[Module], Iterator[str]]


@functools.cache
def modules() -> tuple[Module, ...]:
    return tuple(Module.of(path) for path in sorted(PACKAGE.rglob("*.py")))


def faults(rule: Rule, source: str | None = None) -> list[str]:
    """Returns what a rule finds in the package, or in a source, which no module of it is."""
    tried = modules() if source is None else [Module("tried", ast.parse(source))]
    return [fault for module in tried for fault in rule(module)]


def imported(node: ast.AST) -> list[str]:
    """Returns the dotted names that an import statement brings in; of other nodes, none."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from outside_functions(child)


# ------------------------------------------------- private names of Keras and TensorFlow

_PRIVATE_MODULES = re.compile(
    r"(keras|tensorflow|keras_cv|keras_hub)\.(.+\.)?(src|python|_(?!_)\w+)\b"
)
_PRIVATE = re.compile(r"_(?!_)\w*[^_\W]\w*$")  # _name; neither __name__ nor _
_OF_NAMED_TUPLES = {"_asdict", "_replace", "_fields", "_make", "_field_defaults"}
_BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "attach", "attached", "detach"}
_BY_NAME |= {"get", "pop", "setdefault"}  # of a dict, which `vars` may have given


def is_private_module(name: str) -> bool:
    """Whether a dotted name leads into a private part of Keras, TensorFlow or keras-cv."""
    return bool(_PRIVATE_MODULES.match(name))


@functools.cache
def private_names_in_file(path: str) -> frozenset[str]:
    """Returns the private attributes and methods that the classes of a file have."""
    text = Path(path).read_text(encoding="utf-8")
    return frozenset(re.findall(r"(?:\bself\.|\bdef )(_(?!_)\w+)\b(?=\s*[=:(,])", text))


@functools.cache
def names_of_keras() -> frozenset[str]:
    """Returns the private attributes of all classes of Keras, without importing it."""
    spec = importlib.util.find_spec("keras")
    assert spec is not None and spec.origin is not None
    files = (Path(spec.origin).parent / "src").rglob("*.py")
    return frozenset().union(
        *(private_names_in_file(str(path)) for path in files if not path.stem.endswith("_test"))
    )


def imports_private_modules_at_its_top(module: Module) -> Iterator[str]:
    for node in outside_functions(module.tree):
        for name in imported(node):
            if is_private_module(name):
                yield module.fault(node, f"imports {name} at its top")


def names_private_attributes(module: Module) -> Iterator[str]:
    """Yields where a module names a private attribute of an object that is not its own.

    A private attribute is a module's own if it is accessed on `self` or `cls`, or if the module
    defines that name and Keras doesn't. What a subclass of Keras's names on `self` is looked at by
    `names_attributes_of_its_base`.
    """
    if module.name == INTERNALS:
        return
    own = (defined_names(module.tree) - names_of_keras()) | _OF_NAMED_TUPLES
    for node in ast.walk(module.tree):
        for name in imported(node):
            if is_private_module(name) or name.startswith("unittest.mock"):
                yield module.fault(node, f"imports {name}")
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            inside = is_private_module(re.sub(r"^tf\.", "tensorflow.", dotted))
            private = _PRIVATE.match(node.attr) and not (on_itself(node) or node.attr in own)
            private = private and dotted != "os._exit"  # Python's own, and documented
            if inside or private:
                yield module.fault(node, f"names {dotted}")
        for name in named_by_string(node):
            if _PRIVATE.match(name) and name not in own:
                yield module.fault(node, f"names {name!r} by a string")


def defined_names(tree: ast.AST) -> set[str]:
    """Returns the names of functions, classes, variables and attributes that a module defines."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.update([node.attr] if on_itself(node) else [])
    return found


def on_itself(node: ast.Attribute) -> bool:
    """Whether an attribute is one of the object whose method this is."""
    return ast.unparse(node.value) in ("self", "cls", "type(self)", "super()")


def named_by_string(node: ast.AST) -> list[str]:
    """Returns the names that a node holds where attributes are looked up by name.

    That is `getattr` and its like, `vars(x)[...]`, `"_x" in vars(x)` and keywords, `f(_x=...)`.
    """
    held: list[ast.expr] = []
    keywords: list[str] = []
    if isinstance(node, ast.Call):
        function = ast.unparse(node.func).rpartition(".")[2]
        held = node.args if function in _BY_NAME else []
        keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
    elif isinstance(node, ast.Subscript):
        held = [node.slice]
    elif isinstance(node, ast.Compare):
        held = [node.left]
    constants = [part.value for part in held if isinstance(part, ast.Constant)]
    return [*keywords, *(value for value in constants if isinstance(value, str))]


def looks_into_other_objects(module: Module) -> Iterator[str]:
    """Yields where a module takes single attributes out of another object's `vars`."""
    if module.name == INTERNALS:
        return
    whole = {
        id(node.value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("items", "values")
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars":
            of = ast.unparse(node.args[0]) if node.args else "locals"
        elif isinstance(node, ast.Attribute) and node.attr == "__dict__":
            of = ast.unparse(node.value)
        else:
            continue
        if of != "self" and id(node) not in whole:
            yield module.fault(node, f"looks into {ast.unparse(node)}")


def names_attributes_of_its_base(subclass: type) -> list[str]:
    """Returns the private attributes of Keras's or TensorFlow's that a subclass names on itself."""
    bases = [b for b in subclass.__mro__ if b.__module__.startswith(("keras", "tensorflow"))]
    if not bases:
        return []
    theirs = {name for name in dir(bases[0]) if _PRIVATE.match(name)}
    theirs = theirs.union(*(private_names_in_file(inspect.getfile(base)) for base in bases))
    tree = ast.parse(textwrap.dedent(inspect.getsource(subclass)))
    named = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and on_itself(node)
    }
    named |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return sorted(named & theirs)


def subclasses() -> Iterator[type]:
    """Yields the classes of each module that has one with a base; this imports the module.

    Those of `keras_internals` are left out: private names may stand there.
    """
    for module in modules():
        if module.name == "ftkeras.keras_internals":
            continue
        classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
        if not any(node.bases for node in classes):
            continue
        for found in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(found) and found.__module__ == module.name:
                yield found


def test_no_module_imports_private_modules_at_its_top():
    assert not (found := faults(imports_private_modules_at_its_top)), "\n".join(found)


def test_only_keras_internals_names_private_attributes():
    found = [*faults(names_private_attributes), *faults(looks_into_other_objects)]
    assert not found, "\n".join(found)


def test_no_subclass_names_private_attributes_of_its_base():
    checked = list(subclasses())
    assert sum(any(base.__module__.startswith("keras") for base in c.__mro__) for c in checked) > 20
    found = [f"{c.__module__}.{c.__name__}: {names_attributes_of_its_base(c)}" for c in checked]
    assert not [fault for fault in found if not fault.endswith("[]")]


def test_each_function_of_keras_internals_has_a_canary():
    [internals] = [module for module in modules() if module.name == INTERNALS]
    tests = ast.parse((ROOT / "tests" / "test_keras_internals.py").read_text(encoding="utf-8"))
    canaries = {
        node.name
        for node in tests.body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator).startswith("canary(") for decorator in node.decorator_list)
    }
    functions = [node for node in internals.tree.body if isinstance(node, ast.FunctionDef)]
    public = {f"test_{node.name}" for node in functions if not node.name.startswith("_")}
    assert public - canaries == set()
    assert all(ast.get_docstring(node) for node in functions if f"test_{node.name}" in public)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from keras.src.backend import x", True),
        ("import keras.src", True),
        ("from tensorflow.python.ops import variables", True),
        ("from tensorflow.python import ops", True),
        ("if True:\n    from keras import src", True),
        ("class A:\n    import tensorflow.python as private", True),
        ("def f():\n    from keras.src import backend", False),
        ("import keras, tensorflow as tf\nfrom keras import layers", False),
        ("from ftkeras.data import sources\nfrom python import src", False),
    ],
)
def test_the_rule_of_imports_itself(source, wrong):
    assert bool(faults(imports_private_modules_at_its_top, source)) == wrong


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("model._layers", True),
        ("self.model._layers", True),
        ("model._anything_that_we_do_not_define", True),
        (
            "class A:\n    def _layers(self): ...\n    def f(self, other): return other._layers",
            True,
        ),
        ("class A:\n    def _ours(self): ...\n    def f(self, other): return other._ours", False),
        ("class A:\n    def f(self): self._layers = 1", False),  # if its base is not Keras's
        ("def _ours(): ...\n_ours()", False),
        ("row._asdict(), x.__name__, x.__class__", False),
        ("def f():\n    from keras.src import backend", True),
        ("keras.src.backend", True),
        ("tf.python.ops", True),
        ("tf._api.v2", True),
        ("from unittest import mock", True),
        ("from unittest.mock import patch", True),
        ("getattr(loss, '_fn_kwargs', {})", True),
        ("hasattr(model, '_maybe_symbolic_build')", True),
        ("attach(layer, '_layers', [])", True),
        ("own['_iterations']", True),
        ("own.update(_iterations=3)", True),
        ("showing(optimizer, _iterations=3)", True),
        ("own.pop('_iterations', None)", True),
        ("'_apply_weight_decay' in own", True),
        ("name.endswith('_value'), name.replace('_', ' '), 'a_b' in name", False),
        ("getattr(keras.layers, 'Dense')", False),
    ],
)
def test_the_rule_of_private_names_itself(source, wrong):
    assert bool(faults(names_private_attributes, source)) == wrong


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("vars(layer)['call'] = call", True),
        ("own = vars(model)", True),
        ("'train_step' in vars(model)", True),
        ("model.__dict__['call']", True),
        ("vars(layer).get('call')", True),
        ("dict(vars(operation).items()), list(vars(keras.layers).values())", False),
        ("vars(self)['x']", False),
    ],
)
def test_the_rule_of_other_objects_itself(source, wrong):
    assert bool(faults(looks_into_other_objects, source)) == wrong


def test_the_rule_of_subclasses_itself():
    import keras

    class Flat(keras.Model):
        def _flatten_layers(self):
            self._ours = [super()._layers]
            return self._ours

    class Cast(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self._convert_input_args = False

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self._model = self.model  # which Keras's own setter sets

    class Fine(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self._own_layers = []

    assert names_attributes_of_its_base(Flat) == ["_flatten_layers", "_layers"]
    assert names_attributes_of_its_base(Cast) == ["_convert_input_args"]
    assert names_attributes_of_its_base(Watch) == ["_model"]
    assert names_attributes_of_its_base(Fine) == []


def test_keras_internals_names_few_private_things():
    tree = ast.parse((PACKAGE / "keras_internals.py").read_text(encoding="utf-8"))
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and _PRIVATE.fullmatch(node.attr)
    }
    private |= {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _PRIVATE.fullmatch(node.value)
    }
    # Methods of Keras that a class overrides.
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = (part for node in classes for part in node.body if isinstance(part, ast.FunctionDef))
    private |= {method.name for method in methods if _PRIVATE.fullmatch(method.name)}
    imports = {
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and _PRIVATE_MODULES.match(f"{node.module}.")
    }
    assert len(private | imports) <= 25, sorted(private | imports)
    assert len({name for name in imports if name.startswith("keras.")}) <= 3


# ------------------------------------------------------------------- the size of functions

_MOST_LINES, _MOST_PARAMETERS = 60, 8


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yields the functions and methods inside a node with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            inside = f"{name}.{child.name}"
            if isinstance(child, ast.FunctionDef):
                yield inside, child
            yield from functions(child, inside)
        else:
            yield from functions(child, name)


def too_large(module: Module) -> Iterator[str]:
    """Yields functions of more than 60 lines, docstring included, or of more than 8 parameters."""
    for name, function in functions(module.tree, module.name):
        given = function.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        parameters += [one for one in (given.vararg, given.kwarg) if one is not None]
        taken = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > _MOST_LINES or taken > _MOST_PARAMETERS:
            yield f"{name}: {lines} lines, {taken} parameters"


def test_functions_are_short_and_take_few_parameters():
    assert not (found := faults(too_large)), "\n".join(found)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("def f(a, b, c, d, e, f, g, h): ...", []),
        ("def f(a, b, c, d, /, e, f, g, h, *, i): ...", ["tried.f: 1 lines, 9 parameters"]),
        ("def f(a, b, c, d, e, f, g, *h, **i): ...", ["tried.f: 1 lines, 9 parameters"]),
        ("class A:\n def f(self, a, b, c, d, e, f, g, h): ...", []),
        ("class A:\n a: int\n b: int" + "\n c: int" * 9, []),
        ("def f():\n" + " x = 1\n" * 59, []),
        ("def f():\n" + " x = 1\n" * 60, ["tried.f: 61 lines, 0 parameters"]),
        ("def f():\n '''" + "\n" * 60 + "'''", ["tried.f: 62 lines, 0 parameters"]),
        (
            "class A:\n def f(self):\n  def g():\n" + "   x = 1\n" * 60,
            ["tried.A.f: 62 lines, 0 parameters", "tried.A.f.g: 61 lines, 0 parameters"],
        ),
    ],
)
def test_the_rule_of_sizes_itself(source, wrong):
    assert faults(too_large, source) == wrong


# ------------------------------------------------------------------------------ one of each

# Files get their final names in one place; these move whole folders.
_RENAME = {"ftkeras.files", "ftkeras.data.sources.starter", "ftkeras.export.publish"}
_RENAME |= {"ftkeras.cache", "ftkeras.trunk.writer"}
_RENAMING = re.compile(r"(os|shutil|gfile|tf\.io\.gfile)\.(rename|replace|move)")


def gives_files_their_names(module: Module) -> Iterator[str]:
    if module.name in _RENAME:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and _RENAMING.fullmatch(ast.unparse(node)):
            yield module.fault(node, f"calls {ast.unparse(node)}: use ftkeras.files")


def test_whole_files_are_written_by_one_function():
    assert not (found := faults(gives_files_their_names)), "\n".join(found)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("os.replace(a, b)", True),
        ("gfile.rename(a, b, overwrite=True)", True),
        ("tf.io.gfile.rename(a, b)", True),
        ("text.replace(a, b), dataclasses.replace(a), os.path.join(a)", False),
    ],
)
def test_the_rule_of_whole_files_itself(source, wrong):
    assert bool(faults(gives_files_their_names, source)) == wrong


# ------------------------------------------------------- words of one kind of input

# "imagenet" is the name of weights. `backbones` hold what networks of images are; `cli` has texts
# for people, whose examples are of images; the task `alignment` brings pictures to their texts.
_OF_IMAGES = re.compile(r"image(?!net)|pixel|jpeg|picture", re.IGNORECASE)
_HOMES_OF_IMAGES = re.compile(
    r"ftkeras\.(inputs\.image|backbones|cli|tasks\.alignment)(\.|$)|ftkeras\.runs\.build$"
)
# Other modules that name images, and why. A row whose module does so no more is a fault.
_MAY_SPEAK_OF_IMAGES = {
    "ftkeras.config.data": "fields of the config",
    "ftkeras.config.moved": "an old name of a field",
    "ftkeras.data.sources.manifest_rows": "a field of the config is its argument",
    "ftkeras.data.sources.tfds": "fields of the config, and the class of TFDS's own feature",
    "ftkeras.data.sources.tfrecord": "fields of the config, and the names that feature files use",
    "ftkeras.doctor.preprocessing": "what backbones of images expect; it asks for looks first",
    "ftkeras.export.grpc_client": "a script for people, who export images; others change a word",
    "ftkeras.imports": "a setting in Keras's own file",
    "ftkeras.inputs.registry": "the kind that a config names if it names none; a key of data.json",
    "ftkeras.report.board": "a class of the library that draws",
    "ftkeras.report.read": "a run's file, and a key of data.json",
    "ftkeras.report.sections.examples": "what it shows if the kind can show itself",
    "ftkeras.system_errors": "names of TensorFlow's operations",
    "ftkeras.tasks.adversarial.task": "budgets are of pixel values; other kinds are refused",
    "ftkeras.tasks.incremental.replay": "an array of memory.npz; other kinds are refused",
    "ftkeras.training.callbacks.loggers": "what TensorBoard, wandb and MLflow call a drawing",
}


def docstrings(tree: ast.AST) -> set[int]:
    """Returns the ids of strings that are whole statements: docstrings, and those of fields."""
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {id(value) for value in alone if isinstance(value, ast.Constant)}


def words_of(node: ast.AST) -> list[str]:
    """Returns the identifiers and the string that a node brings in itself."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.alias):
        return [node.name, node.asname or ""]
    named = (getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module"))
    return [name for name in named if isinstance(name, str)]


def speaks_of_images(module: Module) -> Iterator[str]:
    if _HOMES_OF_IMAGES.match(module.name) or module.name in _MAY_SPEAK_OF_IMAGES:
        return
    written = docstrings(module.tree)
    for node in ast.walk(module.tree):
        for word in words_of(node) if id(node) not in written else ():
            if _OF_IMAGES.search(word):
                yield module.fault(node, f"says {word!r}: only a kind's own folder names it")


def test_only_a_kinds_own_folder_names_it():
    assert not (found := faults(speaks_of_images)), "\n".join(found)


def test_no_row_of_those_that_may_name_images_is_idle(monkeypatch):
    rows = set(_MAY_SPEAK_OF_IMAGES)
    monkeypatch.setattr(sys.modules[__name__], "_MAY_SPEAK_OF_IMAGES", {})
    assert rows == rows & {fault.split(":")[0] for fault in faults(speaks_of_images)}
    assert len(rows) <= 20


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("images = 1", True),
        ("def f(image_size): ...", True),
        ("def f(): ...\nf(first_pixel=1)", True),
        ("class ImageThing: ...", True),
        ("from a.pictures import b", True),
        ("from a import b as to_jpeg", True),
        ("a.PIXELS", True),
        ("x = f'{n} images'", True),
        ("x: 'Image'", True),
        ("'Of images.'\ndef f():\n  'Of an image.'\nclass A:\n  b: int\n  'A pixel.'", False),
        ("x = 'imagenet'  # of images", False),
        ("def f(inputs): return f'{len(inputs)} {kind.nouns}'", False),
    ],
)
def test_the_rule_of_words_itself(source, wrong):
    assert bool(faults(speaks_of_images, source)) == wrong
