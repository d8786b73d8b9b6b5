package services

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// The workers of nginx are processes of their own.
func TestCPUCountsTheWorkersOfAServer(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer backend.Close()
	s := Nginx(backend.Listener.Addr().String())
	installed(t, s)
	n, err := s.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Kill() }()
	used := func() (all, master time.Duration) {
		t.Helper()
		all, err := n.CPU()
		if err != nil {
			t.Fatal(err)
		}
		master, err = threads(fmt.Sprintf("/proc/%d", n.processes[0].cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return all, master
	}
	all, master := used()
	for range 200 {
		resp, err := http.Get("http://" + n.URL() + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	allThen, masterThen := used()
	if grown, ofMaster := allThen-all, masterThen-master; grown < 2*time.Millisecond || ofMaster > grown/2 {
		t.Errorf("CPU() grew by %v with 200 requests, %v of it the master's; want at least 10µs for each, the workers'", grown, ofMaster)
	}
}

func TestCPUOfAServerThatIsGoneIsNotKnown(t *testing.T) {
	t.Setenv("PARLEY_TEST_HTTP", "1")
	n, err := Program("mine", os.Args[0]).Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Kill() }()
	if err := n.processes[0].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.processes[0].gone
	if used, err := n.CPU(); err == nil {
		t.Errorf("CPU() of a server that has ended by itself = %v, want an error", used)
	}
}

func TestStatIsReadWhateverTheProgramIsCalled(t *testing.T) {
	for text, ok := range map[string]bool{
		"42 (nginx) S 1 77 77 0":  true,
		"42 (a) b S (x) S 1 77 7": true,
		"42 (a":                   false,
		"":                        false,
		"42 (a) S 1":              false,
		"42 (a) S 1 x 7 0":        false,
	} {
		group, err := parseGroup([]byte(text))
		if ok != (err == nil) || ok && group != 77 {
			t.Errorf("parseGroup(%q) = %d, %v, want 77: %v", text, group, err, ok)
		}
	}
}

func TestTimesOfThreadsAddUp(t *testing.T) {
	dir := t.TempDir()
	write := func(thread, text string) {
		t.Helper()
		home := filepath.Join(dir, "task", thread)
		if err := os.MkdirAll(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, "schedstat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1", "5000000 12 3\n")
	write("2", "17 0 1\n")
	if ran, err := threads(dir); err != nil || ran != 5_000_017 {
		t.Errorf("threads() = %v, %v, want 5.000017ms", ran, err)
	}
	write("3", "soon\n")
	if ran, err := threads(dir); err == nil {
		t.Errorf("threads() = %v of what is no number, want an error", ran)
	}
}
