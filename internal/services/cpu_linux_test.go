package services

import (
	"net/http"
	"os"
	"testing"
	"time"
)

func TestCPUIsWhatTheServersProcessesUse(t *testing.T) {
	t.Setenv("PARLEY_TEST_HTTP", "1")
	n, err := Program("mine", os.Args[0]).Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Kill() }()
	before, err := n.CPU()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + n.URL() + "/work")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	after, err := n.CPU()
	if err != nil || before > worked/2 || after < worked-10*time.Millisecond || after > time.Minute {
		t.Errorf("CPU() = %v and then %v, %v, want at least %v", before, after, err, worked)
	}
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if gone, err := n.CPU(); err != nil || gone != 0 {
		t.Errorf("CPU() of a node that is down = %v, %v, want 0", gone, err)
	}
}

func TestStatIsReadWhateverTheProgramIsCalled(t *testing.T) {
	const rest = " S 1 77 77 0 -1 4194560 1 2 3 4 250 31 5 6 20 0 1 0 99"
	for text, ok := range map[string]bool{
		"42 (nginx)" + rest:                true,
		"42 (a) b S (x)" + rest:            true,
		"42 (a":                            false,
		"":                                 false,
		"42 (a) S 1 x 7 0 0 0 0 0":         false,
		"42 (a) S 1 x 7 0 0 0 0 0 0 0 0 1": false,
	} {
		group, used, err := parseStat([]byte(text))
		if ok != (err == nil) || ok && (group != 77 || used != 281) {
			t.Errorf("parseStat(%q) = %d, %d, %v, want 77 and 281: %v", text, group, used, err, ok)
		}
	}
}
