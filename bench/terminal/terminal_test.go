package terminal

import (
	"os/exec"
	"testing"
	"time"
)

func TestTerminal(t *testing.T) {
	term, err := Start(exec.Command("sh", "-c", `test -t 0 && test "$(stty size)" = "24 80" && trap 'echo bye; exit 0' TERM && echo ready && while :; do sleep 0.1; done`), 80, 24)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); term.Drawn() < int64(len("ready\r\n")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("nothing was drawn")
			break
		}
	}
	if err := term.Close(); err != nil {
		t.Error(err)
	}
	if want := int64(len("ready\r\nbye\r\n")); term.Drawn() != want {
		t.Errorf("%d bytes, want %d", term.Drawn(), want)
	}
}

func TestTerminalFails(t *testing.T) {
	if _, err := Start(exec.Command("/does/not/exist"), 80, 24); err == nil {
		t.Error("a program that is not there was started")
	}
	term, err := Start(exec.Command("sh", "-c", "exit 3"), 80, 24)
	if err != nil {
		t.Fatal(err)
	}
	<-term.read // it has ended by itself
	if err := term.Close(); err == nil {
		t.Error("a program that failed is no error")
	}
}
