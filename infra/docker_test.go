package infra_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// stage is one FROM of a Dockerfile and what follows it.
type stage struct {
	image, name string
	steps       []step
}

type step struct{ instruction, argument string }

// last gives the argument of the last step with the instruction.
func (s stage) last(instruction string) string {
	for _, st := range slices.Backward(s.steps) {
		if st.instruction == instruction {
			return st.argument
		}
	}
	return ""
}

// readDockerfile reads the subset of the language that is used here: stages, arguments with defaults before the first
// FROM, continued lines, comments. It fails on an instruction that Docker does not have.
func readDockerfile(t *testing.T, name string) []stage {
	t.Helper()
	body, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Fields("FROM ARG COPY RUN ENV USER ENTRYPOINT WORKDIR")
	args := map[string]string{}
	var stages []stage
	for _, line := range joined(string(body)) {
		instruction, argument, _ := strings.Cut(line, " ")
		argument = strings.TrimSpace(argument)
		switch {
		case !slices.Contains(known, instruction) || argument == "":
			t.Fatalf("%s: cannot read %q", name, line)
		case instruction == "ARG" && stages == nil:
			key, value, _ := strings.Cut(argument, "=")
			args[key] = value
		case instruction == "FROM":
			image, as, _ := strings.Cut(argument, " AS ")
			stages = append(stages, stage{image: os.Expand(image, func(k string) string { return args[k] }), name: as})
		case stages == nil:
			t.Fatalf("%s: %s before FROM", name, instruction)
		default:
			s := &stages[len(stages)-1]
			s.steps = append(s.steps, step{instruction, argument})
		}
	}
	return stages
}

// joined gives the lines of a Dockerfile without comments, continued ones as one.
func joined(body string) []string {
	var lines []string
	open := false
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text, goesOn := strings.CutSuffix(line, `\`)
		if open {
			lines[len(lines)-1] += " " + strings.TrimSpace(text)
		} else {
			lines = append(lines, strings.TrimSpace(text))
		}
		open = goesOn
	}
	return lines
}

func TestImagesAreBuiltAsTheyShould(t *testing.T) {
	tests := []struct {
		name, base, user, binary string
		entrypoint               []string
		build                    []string // parts of the command
	}{
		{"watcher", `^scratch$`, "65532:65532", "/spool", []string{"/spool", "watch"},
			[]string{"CGO_ENABLED=0 go build ", " -tags nolocal "}},
		{"runner", `^vllm/vllm-openai:v\d+\.\d+\.\d+$`, "2000:0", "/usr/local/bin/spool", []string{"spool", "run"},
			[]string{"CGO_ENABLED=1 ", " go build ", " -tags nolocal,nvml,netgo,osusergo ", "-extldflags=-Wl,-z,lazy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stages := readDockerfile(t, "docker/"+tt.name+".Dockerfile")
			if len(stages) != 2 || stages[0].name != "build" {
				t.Fatalf("stages %+v, want build and the image", stages)
			}
			build, image := stages[0], stages[1]
			checkBuild(t, build, tt.build)
			if !regexp.MustCompile(tt.base).MatchString(image.image) {
				t.Errorf("base is %q, want %s", image.image, tt.base)
			}
			if got := image.last("USER"); got != tt.user {
				t.Errorf("runs as %q, want %q", got, tt.user)
			}
			var entrypoint []string
			if err := json.Unmarshal([]byte(image.last("ENTRYPOINT")), &entrypoint); err != nil || !slices.Equal(entrypoint, tt.entrypoint) {
				t.Errorf("entrypoint is %q, %v; want %q", entrypoint, err, tt.entrypoint)
			}
			if from, to := copied(t, build, image); to != tt.binary {
				t.Errorf("the binary goes from %s to %s, want %s", from, to, tt.binary)
			}
		})
	}
}

// checkBuild expects a pinned Go that is not older than the module asks for, and a binary with everything that the version
// needs, built as the image needs it: static for scratch, with cgo where there may be GPUs.
func checkBuild(t *testing.T, build stage, command []string) {
	t.Helper()
	var major, minor, patch, wantMajor, wantMinor, wantPatch int
	if _, err := fmt.Sscanf(build.image, "golang:%d.%d.%d-bookworm", &major, &minor, &patch); err != nil {
		t.Errorf("builds on %q: %v", build.image, err)
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(mod), "\ngo ")
	if _, err := fmt.Sscanf(text, "%d.%d.%d", &wantMajor, &wantMinor, &wantPatch); err != nil {
		t.Fatalf("read go.mod: %v", err)
	}
	if slices.Compare([]int{major, minor, patch}, []int{wantMajor, wantMinor, wantPatch}) < 0 {
		t.Errorf("builds on %s, older than go.mod's %d.%d.%d", build.image, wantMajor, wantMinor, wantPatch)
	}
	run := build.last("RUN")
	for _, want := range append(command, " -trimpath ", " -buildvcs=auto ", " ./cmd/spool") {
		if !strings.Contains(run, want) {
			t.Errorf("%q lacks %q", run, want)
		}
	}
}

// copied follows the binary from the -o of the build into the image.
func copied(t *testing.T, build, image stage) (from, to string) {
	t.Helper()
	m := regexp.MustCompile(` -o (\S+)`).FindStringSubmatch(build.last("RUN"))
	if m == nil {
		t.Fatal("the build has no -o")
	}
	from = m[1]
	fields := strings.Fields(image.last("COPY"))
	if len(fields) != 3 || fields[0] != "--from=build" {
		t.Fatalf("COPY %q", fields)
	}
	rest, ok := strings.CutPrefix(from, fields[1])
	if !ok {
		t.Fatalf("%s is not under %s", from, fields[1])
	}
	return from, path.Join(fields[2], rest)
}

// TestRunnerImageNamesItself: the record of what answers were made with has the image.
func TestRunnerImageNamesItself(t *testing.T) {
	const name = "docker/runner.Dockerfile"
	stages := readDockerfile(t, name)
	image := stages[len(stages)-1]
	for _, want := range []step{
		{"ARG", "VLLM_VERSION"}, // a stage sees no argument that it does not name
		{"ARG", "SPOOL_IMAGE=vllm/vllm-openai:${VLLM_VERSION}"},
		{"ENV", "SPOOL_IMAGE=${SPOOL_IMAGE}"},
	} {
		if !slices.Contains(image.steps, want) {
			t.Errorf("it lacks %s %s", want.instruction, want.argument)
		}
	}
	body, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), "--engine-url http://127.0.0.1") {
		t.Error("it tells of an engine at 127.0.0.1, where in a container nobody is")
	}
}
