// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is an unpacked Debian kernel package, as scripts/setup leaves it in bin/guest.
type Kernel struct {
	// Image is the file that a boot loader loads. Immutable.
	Image string
	// modules are the files of the loadable modules by name, with "_" for each "-". Immutable.
	modules map[string]string
}

// FindKernel returns the kernel whose package was unpacked to dir.
func FindKernel(dir string) (*Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%d kernels in %s/boot, want one: run scripts/setup test (%v)", len(images), dir, err)
	}
	k := &Kernel{Image: images[0], modules: map[string]string{}}
	err = filepath.WalkDir(filepath.Join(dir, "lib/modules"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); err == nil && ok {
			k.modules[moduleName(name)] = path
		}
		return err
	})
	return k, err
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// loadOrder returns the files of the named modules and of those that they need, each after what it needs.
func (k *Kernel) loadOrder(names []string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		if seen[name] {
			return nil
		}
		seen[name] = true
		file, ok := k.modules[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		needs, err := moduleNeeds(file)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		files = append(files, file)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return slices.Clip(files), nil
}

// moduleNeeds returns the modules whose symbols a module uses. The module itself lists them; modules.dep, which depmod
// makes when a kernel is installed, says the same.
func moduleNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s: no .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
