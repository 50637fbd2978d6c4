"""The Go toolchain of this machine as the repository @local_go.

The toolchain, its module cache and its build cache are the ones that `go` on
PATH uses, so that Bazel fetches nothing and builds nothing twice. The
repository is made anew when one of the variables below changes or the Bazel
server starts, and everything is rebuilt when Go's version or GOROOT is
another one.
"""

_SETTINGS = ["GOCACHE", "GOMODCACHE", "GOPATH", "GOROOT", "GOVERSION"]

def _local_go_impl(ctx):
    go = ctx.which("go")
    if not go:
        fail("no 'go' on PATH: install the Go that go.mod names, from https://go.dev/dl/")

    # Outside of every module: go.mod's toolchain line is not for here.
    result = ctx.execute([go, "env"] + _SETTINGS, environment = {"GOTOOLCHAIN": "local"})
    if result.return_code != 0:
        fail("go env: " + result.stderr)
    values = result.stdout.strip().split("\n")
    if len(values) != len(_SETTINGS):
        fail("go env: not a line for each of {}: {}".format(_SETTINGS, result.stdout))
    settings = dict(zip(_SETTINGS, values))

    ctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

exports_files(["env.sh"])
""")
    ctx.file("env.sh", "".join([
        "export {}='{}'\n".format(name, settings[name].replace("'", "'\\''"))
        for name in _SETTINGS
        if name != "GOVERSION"
    ]) + "# {}\n".format(settings["GOVERSION"]))

local_go = repository_rule(
    implementation = _local_go_impl,
    configure = True,
    environ = ["GOCACHE", "GOMODCACHE", "GOPATH", "HOME", "PATH"],
    local = True,
)
