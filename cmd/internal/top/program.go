package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/control"
)

// Options say what to show.
type Options struct {
	Source
	Interval time.Duration // between two samples
	Network  string        // whose forwarding table the daemon is asked for; "" = all
	View     View          // at first
	// Getenv is asked for NO_COLOR, TERM and the locale.
	Getenv func(string) string
}

// framesPerSecond bounds how often the screen is drawn.
const framesPerSecond = 10

// Run shows the view on a terminal until the user, a signal or ctx ends it, and
// leaves the terminal as it was. A daemon that does not answer at first is an
// error; later it is shown, and asked again.
func (o Options) Run(ctx context.Context, in, out *os.File) error {
	if !isTerminal(in) || !isTerminal(out) {
		return errors.New("this is no terminal to draw on: `overtap top --once` prints a screen, `overtap stats --watch` all counters again and again")
	}
	if t := o.Getenv("TERM"); t == "" || t == "dumb" {
		return fmt.Errorf("TERM=%s is no terminal to draw on: `overtap top --once` prints a screen, `overtap stats --watch` all counters again and again", t)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	first, err := o.take(ctx)
	if err != nil {
		return err
	}
	m := &model{ctx: ctx, o: o, state: newState(o.Interval, o.View, unicodeLocale(o.Getenv), o.Getenv("NO_COLOR") == "")}
	m.state.observe(first)
	options := []tea.ProgramOption{
		tea.WithoutSignalHandler(), tea.WithInput(in), tea.WithOutput(out), tea.WithFPS(framesPerSecond),
	}
	if !m.state.color {
		options = append(options, tea.WithColorProfile(colorprofile.ASCII))
	}
	p := tea.NewProgram(m, options...)
	m.end = p.Quit
	// Not tea.WithContext: a program that is killed does not wait for who reads the
	// keys.
	defer context.AfterFunc(ctx, p.Quit)()
	_, err = p.Run()
	crash := m.crash.Load()
	switch {
	case crash != nil:
		return *crash
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("using the terminal: %w", err)
	}
	return nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// unicodeLocale reports whether the terminal takes UTF-8: the first of these that
// is set decides (locale(7)).
func unicodeLocale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// model is the program as bubbletea runs it: Update and View are called by one
// goroutine, what they return to be done by others.
type model struct {
	ctx    context.Context
	o      Options
	state  *state
	asking bool // for a sample
	pages  int  // asked for: of the answers the last counts

	end   func() // ends the program
	crash atomic.Pointer[error]
}

// guard, deferred, has a panic end the program in order, so that the terminal is
// as it was before the panic is printed.
func (m *model) guard() {
	if r := recover(); r != nil {
		err := fmt.Errorf("drawing the screen: panic: %v\n%s", r, debug.Stack())
		m.crash.CompareAndSwap(nil, &err)
		go m.end()
	}
}

type (
	beat    struct{}
	sampled struct {
		sample *sample
		err    error
		at     time.Time
	}
	paged struct {
		number int
		page   control.FDBPage
		err    error
	}
)

// Init implements tea.Model.
func (m *model) Init() tea.Cmd { return tea.Batch(m.wait(), m.askPage()) }

// wait lets an interval pass.
func (m *model) wait() tea.Cmd {
	return tea.Tick(m.o.Interval, func(time.Time) tea.Msg { return beat{} })
}

// ask takes a sample, unless one is being taken.
func (m *model) ask() tea.Cmd {
	if m.asking {
		return nil
	}
	m.asking = true
	return func() tea.Msg {
		defer m.guard()
		s, err := m.o.take(m.ctx)
		return sampled{s, err, time.Now()}
	}
}

// askPage asks for what the view of the FDB shows, where it is in view.
func (m *model) askPage() tea.Cmd {
	if m.state.view != FDB {
		return nil
	}
	m.pages++
	number, q := m.pages, m.state.query(m.o.Network)
	return func() tea.Msg {
		defer m.guard()
		p, err := m.o.page(m.ctx, q)
		return paged{number, p, err}
	}
}

// Update implements tea.Model.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) { return m, m.update(msg) }

func (m *model) update(msg tea.Msg) tea.Cmd {
	defer m.guard()
	s := m.state
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
		s.arrange()
		return m.askPage()
	case beat:
		if s.paused {
			return m.wait()
		}
		return tea.Batch(m.wait(), m.ask(), m.askPage())
	case sampled:
		m.asking = false
		switch {
		case s.paused:
		case msg.err != nil:
			s.fail(msg.err, msg.at)
		default:
			s.observe(msg.sample)
		}
	case paged:
		if msg.number == m.pages {
			if s.pageErr = msg.err; msg.err == nil {
				s.page = msg.page
			}
			s.arrange()
		}
	case tea.PasteMsg:
		if s.typing {
			return m.do(s.press("paste", msg.Content))
		}
	case tea.KeyPressMsg:
		return m.do(s.press(msg.String(), msg.Text))
	}
	return nil
}

// do what a key leads to.
func (m *model) do(t then) tea.Cmd {
	switch t {
	case quit:
		return tea.Quit
	case ask:
		return tea.Batch(m.ask(), m.askPage())
	case askPage:
		return m.askPage()
	}
	return nil
}

// View implements tea.Model.
func (m *model) View() (v tea.View) {
	v.AltScreen = true
	defer m.guard()
	v.SetContent(strings.Join(m.state.lines(), "\n"))
	return v
}
