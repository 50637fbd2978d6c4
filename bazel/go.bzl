"""Go packages and their tests, built by the Go toolchain of this machine.

One target stands for one Go package. What it may import of this module is what
its deps say: the Go command runs in a directory that holds the sources of the
package, of its deps, and nothing else. Modules come from the module cache, as
go.mod and go.sum say.
"""

GoPackageInfo = provider(
    doc = "A package of this module.",
    fields = {"sources": "depset of File: what the package is built from, the packages that it imports included"},
)

# Not sandboxed: the Go command works on a copy of its inputs, and its build
# cache is outside. Not remote: the toolchain is this machine's.
_EXECUTION = {"no-remote": "1", "no-sandbox": "1"}

def _sources(ctx, srcs, deps):
    return depset(
        direct = ctx.files._module + srcs,
        transitive = [dep[GoPackageInfo].sources for dep in deps],
    )

def _build(ctx, kind, out, sources, tags):
    """Adds the action that runs bazel/build.sh; kind is its first argument."""
    manifest = ctx.actions.args()
    manifest.add_all(sources)
    manifest.set_param_file_format("multiline")
    manifest.use_param_file("%s", use_always = True)
    options = ctx.actions.args()
    options.add_all([kind, ctx.file._env, out, "./" + ctx.label.package, ",".join(tags)])
    ctx.actions.run(
        arguments = [options, manifest],
        executable = ctx.file._build,
        execution_requirements = _EXECUTION,
        inputs = depset(direct = [ctx.file._env], transitive = [sources]),
        mnemonic = "Go" + kind.capitalize(),
        outputs = [out],
        progress_message = "go {} //{}".format(kind, ctx.label.package),
        tools = [ctx.file._build],
        use_default_shell_env = True,
    )

_COMMON = {
    "srcs": attr.label_list(allow_files = True),
    "deps": attr.label_list(providers = [GoPackageInfo]),
    "_build": attr.label(default = "//bazel:build.sh", allow_single_file = True),
    "_env": attr.label(default = "@local_go//:env.sh", allow_single_file = True),
    "_module": attr.label_list(default = ["//:go.mod", "//:go.sum"], allow_files = True),
}

def _package_impl(ctx, kind, out):
    sources = _sources(ctx, ctx.files.srcs, ctx.attr.deps)
    _build(ctx, kind, out, sources, [])
    return GoPackageInfo(sources = sources)

def _library_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".a")
    return [_package_impl(ctx, "library", out), DefaultInfo(files = depset([out]))]

_library = rule(
    implementation = _library_impl,
    attrs = _COMMON,
)

def _binary_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    return [_package_impl(ctx, "binary", out), DefaultInfo(files = depset([out]), executable = out)]

_binary = rule(
    implementation = _binary_impl,
    attrs = _COMMON,
    executable = True,
)

def _test_impl(ctx):
    deps = ctx.attr.deps + ([ctx.attr.library] if ctx.attr.library else [])
    binary = ctx.actions.declare_file(ctx.label.name + ".bin")
    _build(ctx, "test", binary, _sources(ctx, ctx.files.srcs, deps), ctx.attr.gotags)

    # The first lines tell bazel/test.sh what to run and where.
    script = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(script, "\n".join([
        "#!/bin/bash",
        "set -eu -o pipefail",
        "runfiles=$TEST_SRCDIR/" + ctx.workspace_name,
        "binary=$runfiles/" + binary.short_path,
        "package=" + ctx.label.package,
        "in_tree=" + ("1" if ctx.attr.in_tree else ""),
        ". \"$TEST_SRCDIR/{}\"".format(_runfiles_path(ctx, ctx.file._env)),
        ". \"$TEST_SRCDIR/{}\"".format(_runfiles_path(ctx, ctx.file._run)),
        "",
    ]), is_executable = True)
    return [DefaultInfo(
        executable = script,
        runfiles = ctx.runfiles(files = [binary, ctx.file._env, ctx.file._run] + ctx.files._module + ctx.files.data),
    )]

def _runfiles_path(ctx, file):
    if file.short_path.startswith("../"):
        return file.short_path[len("../"):]
    return ctx.workspace_name + "/" + file.short_path

_go_test = rule(
    implementation = _test_impl,
    attrs = dict(
        _COMMON,
        data = attr.label_list(allow_files = True),
        gotags = attr.string_list(),
        in_tree = attr.bool(),
        library = attr.label(providers = [GoPackageInfo]),
        _run = attr.label(default = "//bazel:test.sh", allow_single_file = True),
    ),
    test = True,
)

_PUBLIC = ["//visibility:public"]

def _package_sources(embedsrcs):
    return native.glob(["*.go"], exclude = ["*_test.go"], allow_empty = True) + embedsrcs

def go_library(name, deps = [], embedsrcs = []):
    """The Go package of this directory.

    Args:
      name: the target.
      deps: the packages of this module that it imports.
      embedsrcs: the files that go:embed takes.
    """
    _library(name = name, srcs = _package_sources(embedsrcs), deps = deps, visibility = _PUBLIC)

def go_binary(name, deps = [], embedsrcs = []):
    """The Go program of this directory: static, stripped, as `make build` makes it.

    Args:
      name: the target and the file.
      deps: the packages of this module that it imports.
      embedsrcs: the files that go:embed takes.
    """
    _binary(name = name, srcs = _package_sources(embedsrcs), deps = deps, visibility = _PUBLIC)

def go_test(name, library = None, deps = [], data = [], embedsrcs = [], gotags = [], tags = []):
    """The tests of the Go package of this directory.

    They run in their directory, not sandboxed: many need to be root.

    Args:
      name: the target.
      library: the package that is tested, if there is more of it than tests.
      deps: the packages of this module that the tests import.
      data: files that the tests read, beside those of this directory.
      embedsrcs: the files that go:embed takes in the tests.
      gotags: build tags. Tests with one are integration tests: they run in the
        source tree, because they need what `make build` and scripts/setup leave
        in bin; one at a time; never from the cache; and only when named.
      tags: more of Bazel's tags.
    """
    own = native.glob(["**"], exclude = ["**/*.go", "BUILD.bazel"], allow_empty = True)
    integration = ["exclusive", "external", "integration", "manual"] if gotags else []
    _go_test(
        name = name,
        data = own + data,
        deps = deps,
        gotags = gotags,
        in_tree = bool(gotags),
        library = library,
        srcs = native.glob(["*.go"], allow_empty = True) + embedsrcs,
        tags = ["no-remote", "no-sandbox"] + integration + tags,
        timeout = "eternal" if gotags else "long",
        visibility = _PUBLIC,
    )
