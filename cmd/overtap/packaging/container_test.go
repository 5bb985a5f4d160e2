package main

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"overtap/cmd/internal/confine"
)

// repository is the module's root, which is the image's build context.
const repository = "../../.."

// instruction is a line of the Dockerfile, continued lines joined.
type instruction struct{ word, rest string }

// dockerfile reads the recipe, by stage, each of which begins with FROM.
func dockerfile(t testing.TB) (stages [][]instruction) {
	t.Helper()
	text := string(must[[]byte](t)(os.ReadFile("Dockerfile")))
	text = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(text, "")
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "" {
			continue
		}
		if word == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("%q stands before any FROM", line)
		}
		last := len(stages) - 1
		stages[last] = append(stages[last], instruction{word, strings.TrimSpace(rest)})
	}
	return stages
}

// image builds the image's files into a directory: the first stage's commands are run
// on the files that it copies, and the second copies from the result.
func image(t testing.TB) (root string) {
	t.Helper()
	stages := dockerfile(t)
	if len(stages) != 2 || stages[1][0].rest != "scratch" {
		t.Fatalf("the recipe has stages %v, want one that builds and one from scratch", stages)
	}
	src, out, root := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{src, out, root} {
		check(t, os.Chmod(dir, 0o755))
	}
	env := append(os.Environ(), "TARGETARCH="+runtime.GOARCH, "VERSION="+oldVersion)
	builds := 0
	for _, i := range stages[0] {
		switch i.word {
		case "COPY":
			f := strings.Fields(i.rest)
			for _, from := range f[:len(f)-1] {
				to := filepath.Join(src, f[len(f)-1])
				if strings.HasSuffix(f[len(f)-1], "/") {
					to = filepath.Join(to, filepath.Base(from))
				}
				command(t, "cp", "-r", filepath.Join(repository, from), to)
			}
		case "RUN":
			if i.rest == "go mod download" {
				continue // the tests have the modules
			}
			builds++
			cmd := exec.CommandContext(t.Context(), "sh", "-euc", strings.ReplaceAll(i.rest, "/out/", out+"/"))
			cmd.Dir, cmd.Env = src, env
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("RUN %s: %v\n%s", i.rest, err, said)
			}
		}
	}
	if builds == 0 {
		t.Fatal("the recipe builds nothing")
	}
	for _, i := range stages[1] {
		if i.word != "COPY" {
			continue
		}
		from, to, _ := strings.Cut(i.rest, " ")
		base := repository
		if from == "--from=build" {
			from, to, _ = strings.Cut(to, " ")
			from, base = strings.TrimPrefix(from, "/out/"), out
		}
		copyFile(t, filepath.Join(base, from), filepath.Join(root, to))
	}
	return root
}

// words is the list of a JSON-like instruction such as ENTRYPOINT.
func words(t testing.TB, stage []instruction, word string) (list []string) {
	t.Helper()
	for _, i := range stage {
		if i.word == word {
			check(t, json.Unmarshal([]byte(i.rest), &list))
		}
	}
	return list
}

// kept are the names of the capabilities that the daemon keeps, as engines have them.
func kept() (names []string) {
	for _, k := range confine.Kept {
		names = append(names, strings.TrimPrefix(strings.ToUpper(k.Value.String()), "CAP_"))
	}
	slices.Sort(names)
	return names
}

// Each command of docs/container.md gives the image the capabilities that the daemon keeps,
// and no more.
func TestContainerIsGivenWhatIsKept(t *testing.T) {
	text := string(must[[]byte](t)(os.ReadFile(filepath.Join(repository, "docs", "container.md"))))
	for _, way := range []struct{ name, begin, end, caps string }{
		{"docker run", "docker run ", "\n\n", `--cap-add (\w+)`},
		{"compose", "cap_add: [", "]", `(\w+)[,\]]`},
		{"quadlet", "AddCapability=", "\n", `(\w+)[ \n]`},
	} {
		_, rest, ok := strings.Cut(text, way.begin)
		block, _, ends := strings.Cut(rest, way.end)
		if !ok || !ends {
			t.Errorf("%s: no %q", way.name, way.begin)
			continue
		}
		var given []string
		for _, m := range regexp.MustCompile(way.caps).FindAllStringSubmatch(block+way.end, -1) {
			given = append(given, m[1])
		}
		slices.Sort(given)
		if want := kept(); !slices.Equal(given, want) {
			t.Errorf("%s: gives %v, want %v", way.name, given, want)
		}
	}
}

// The image, in an otherwise empty root with the flags of docs/container.md, joins
// containers: the capabilities that those give and no others, /proc/sys and /sys
// read-only, no new privileges.
func TestContainer(t *testing.T) {
	s := sites(t)
	requireTools(t, "capsh:libcap2-bin")
	root := image(t)
	stages := dockerfile(t)
	entry, args := words(t, stages[1], "ENTRYPOINT"), words(t, stages[1], "CMD")
	if len(entry) != 1 || len(args) == 0 {
		t.Fatalf("the image runs %q %q", entry, args)
	}
	static(t, must[[]byte](t)(os.ReadFile(filepath.Join(root, entry[0]))), map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH])
	if got := command(t, filepath.Join(root, entry[0]), "version"); !strings.HasPrefix(got, "overtap "+oldVersion+" ") {
		t.Errorf("the image has %s", got)
	}
	for _, dir := range []string{"proc", "sys", "dev/net", "etc/overtap", "run/overtap"} {
		check(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for _, dev := range []string{"dev/null", "dev/net/tun"} {
		check(t, os.WriteFile(filepath.Join(root, dev), nil, 0o600))
	}
	check(t, os.WriteFile(filepath.Join(root, "etc/overtap/overtap.toml"), configuration(s), 0o600))

	var drop []string
	var want uint64
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if slices.Contains(kept(), strings.TrimPrefix(strings.ToUpper(v.String()), "CAP_")) {
			want |= 1 << v
		} else {
			drop = append(drop, v.String())
		}
	}
	d := start(t, s[0].Host, `
		root=$1 drop=$2 entry=$3; shift 3
		mount --bind "$root" "$root"
		mount -o remount,bind,ro "$root"
		mount -t tmpfs tmpfs "$root/run/overtap"
		mount -t proc proc "$root/proc"
		mount --bind "$root/proc/sys" "$root/proc/sys"
		mount -o remount,bind,ro "$root/proc/sys"
		mount -t sysfs -o ro sysfs "$root/sys"
		mount --bind /dev/null "$root/dev/null"
		mount --bind /dev/net/tun "$root/dev/net/tun"
		exec setpriv --no-new-privs capsh --drop="$drop" --chroot="$root" --shell="$entry" -- "$@"`,
		append([]string{root, strings.Join(drop, ","), entry[0]}, args...)...)
	passes(t, s)
	status := string(must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))))
	for _, line := range []string{
		fmt.Sprintf("CapPrm:\t%016x", want), fmt.Sprintf("CapEff:\t%016x", want), fmt.Sprintf("CapBnd:\t%016x", want), "NoNewPrivs:\t1",
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	// As `docker exec` does.
	exec := []string{"--mount=/proc/" + fmt.Sprint(d.cmd.Process.Pid) + "/ns/mnt", "--root=/proc/" + fmt.Sprint(d.cmd.Process.Pid) + "/root", entry[0]}
	if got := command(t, "nsenter", append(exec, "status")...); !strings.Contains(got, ": ready") {
		t.Errorf("status says\n%s", got)
	}
	d.stop()
}
