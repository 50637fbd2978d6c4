//go:build e2e

package e2e

// limit is what a server cannot do, by case, each with its reason. A case that is not here must pass.
type limit struct {
	both    map[string]string // fails on the kernel and in the sandbox: the server's own limit
	sandbox map[string]string // fails in the sandbox only
	native  map[string]string // fails on the kernel only
}

var limits = map[string]limit{}
