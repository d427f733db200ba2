"""What the code itself must not do: run what it reads, build words for a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_architecture import ROOT, modules

OUTSIDE = ["../x", "..", "a/../../x", "/etc/x", "."]


# Where what could run code is allowed, and why.
ALLOWED = {
    ("orchestrator.trial.pool", "pickle.loads"): "the trial's own job, from its process through Ray",
    (
        "orchestrator.trial.stored",
        "pickle.loads",
    ): "a study's own scratch, with a checksum; nothing is loaded from elsewhere",
}
CODE = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput",
          "asyncio.create_subprocess_shell", "pty.spawn"}  # fmt: skip
UNPICKLERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "torch.load", "dill.load", "dill.loads",
              "cloudpickle.load", "cloudpickle.loads", "shelve.open", "marshal.loads", "marshal.load"}  # fmt: skip
ARCHIVES = {"extractall", "extract", "unpack_archive"}
PROCESSES = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call",
             "subprocess.check_output"}  # fmt: skip


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def trouble(name: str, call: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in CODE | SHELLS | UNPICKLERS:
        return not (name == "torch.load" and getattr(keywords.get("weights_only"), "value", None) is True)
    if getattr(keywords.get("shell"), "value", None) or (
        name in PROCESSES and isinstance(call.args[0], ast.JoinedStr | ast.Constant | ast.BinOp)
    ):
        return True
    if name == "np.load" and getattr(keywords.get("allow_pickle"), "value", False):
        return True
    if name.split(".")[-1] in ARCHIVES:
        return getattr(keywords.get("filter"), "value", None) != "data"
    if name.startswith("yaml.") and "load" in name:
        return name not in ("yaml.safe_load",)
    return False


@pytest.mark.parametrize("module", modules())
def test_nothing_runs_what_it_reads(module):
    found = {(module, name) for name, call in calls(modules()[module]) if trouble(name, call)}
    assert found <= set(ALLOWED)


def test_what_is_allowed_is_there_still():
    found = {(module, name) for module, path in modules().items() for name, call in calls(path) if trouble(name, call)}
    assert found == set(ALLOWED)


def test_the_walk_finds_what_it_looks_for(tmp_path):
    bad = ["os.system('x')", "subprocess.run('x')", "subprocess.run(['x'], shell=True)", "subprocess.Popen(f'{x}')",
           "eval('1')", "yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "yaml.unsafe_load(x)", "pickle.load(f)",
           "torch.load(f)", "tar.extractall('x')", "shutil.unpack_archive(a)",
           "np.load(f, allow_pickle=True)"]  # fmt: skip
    good = ["subprocess.run(['x'])", "torch.load(f, weights_only=True)", "tar.extractall('x', filter='data')",
            "net.eval()", "re.compile('x')", "yaml.safe_load(x)", "np.load(f)"]  # fmt: skip
    for text in [*bad, *good]:
        (tmp_path / "x.py").write_text(text)
        assert any(trouble(name, call) for name, call in calls(tmp_path / "x.py")) == (text in bad), text


def test_the_yaml_loader_is_a_safe_one():
    import yaml

    from orchestrator.studies import yamlfile

    assert issubclass(yamlfile._Loader, yaml.SafeLoader)
    assert ROOT.joinpath("orchestrator", "studies", "yamlfile.py").read_text().count("(yaml.SafeLoader)") == 1
