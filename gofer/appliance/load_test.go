package appliance

import (
	"testing"
)

func TestEmbeddedManifestsAreValid(t *testing.T) {
	names, err := Names()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 11 {
		t.Errorf("appliances: got %q", names)
	}
	for _, name := range names {
		if _, err := Load(name); err != nil {
			t.Error(err)
		}
	}
}
