package vllm

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Record says with what answers were made. Two runners whose records differ in more than LoadSeconds may answer the
// same request differently.
type Record struct {
	Version        string         `json:"version"`            // of vLLM
	Model          string         `json:"model"`              // as configured
	Revision       string         `json:"revision,omitempty"` // the hub's commit, else as configured
	ModelDigest    string         `json:"model_digest,omitempty"`
	TemplateDigest string         `json:"template_digest,omitempty"` // sha256 of the chat template
	Models         map[string]int `json:"models"`                    // served names and their greatest lengths in tokens
	Args           []string       `json:"args"`                      // from "serve" on, without the socket
	Dtype          string         `json:"dtype"`                     // as configured; "auto" follows from the model and the GPU
	Driver         string         `json:"driver,omitempty"`          // of the GPUs
	GPUs           []string       `json:"gpus,omitempty"`            // names, one each
	Image          string         `json:"image,omitempty"`
	LoadSeconds    float64        `json:"load_seconds"` // from the start to readiness
}

// digestLimit is the size up to which a file of the model is read for the digest; of others the size counts.
const digestLimit = 32 << 20

func (s *Server) describe(l *life) Record {
	r := Record{
		Version: l.version, Model: s.cfg.Model, Revision: s.cfg.Revision, Image: s.cfg.Image,
		Models: map[string]int{}, Dtype: cmp.Or(argument(s.cfg.Args, "--dtype"), "auto"), LoadSeconds: time.Since(l.born).Seconds(),
	}
	for _, m := range l.models {
		r.Models[m.ID] = m.MaxModelLen
	}
	args := s.cfg.arguments("", s.refused)
	i := slices.Index(args, "--uds")
	r.Args = slices.Delete(args, i, i+2)[len(s.cfg.Command)-1:]
	root, revision := findModel(s.cfg.Model, s.cfg.Revision, s.cfg.HubCache)
	if root != "" {
		r.Revision = revision
		digest, err := modelDigest(root)
		if err != nil {
			s.cfg.Log.Warn("the model's files could not be read for the record", zap.String("event", "engine_record"), zap.Error(err))
		}
		r.ModelDigest = digest
	}
	r.TemplateDigest = templateDigest(root, s.cfg.Args)
	r.Driver, r.GPUs = nvidia("/proc/driver/nvidia")
	return r
}

// findModel gives the folder with the model's files, and its revision: a folder of its own has the one that was
// configured; one in the hub's cache is named by its commit (models--ORG--NAME/{refs/REVISION,snapshots/COMMIT}).
func findModel(model, revision, cache string) (root, commit string) {
	if info, err := os.Stat(model); err == nil && info.IsDir() {
		return model, revision
	}
	if cache == "" {
		return "", ""
	}
	base := filepath.Join(cache, "models--"+strings.ReplaceAll(model, "/", "--"))
	commit = revision
	if commit == "" {
		commit = "main"
	}
	if ref, err := os.ReadFile(filepath.Join(base, "refs", filepath.FromSlash(commit))); err == nil {
		commit = strings.TrimSpace(string(ref))
	}
	root = filepath.Join(base, "snapshots", commit)
	if _, err := os.Stat(root); err != nil {
		return "", ""
	}
	return root, commit
}

// modelDigest is the sha256 over names and sizes of the model's files in their order, and over the contents of those
// that are not weights. It takes milliseconds, where the weights would take minutes.
func modelDigest(root string) (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		path := filepath.Join(root, filepath.FromSlash(name))
		info, err := os.Stat(path) // the hub's cache has links
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %d\n", name, info.Size())
		if info.IsDir() || info.Size() > digestLimit {
			return nil
		}
		return copyFile(sum, path)
	})
	if err != nil {
		return "", fmt.Errorf("digest of model %s: %w", root, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// templateDigest finds the chat template where vLLM does: the argument, a file or the template itself, then the
// model's files. It gives "" if there is none.
func templateDigest(root string, args []string) string {
	if given := argument(args, "--chat-template"); given != "" {
		if data, err := os.ReadFile(given); err == nil {
			return digest(data)
		}
		return digest([]byte(given))
	}
	if root == "" {
		return ""
	}
	if data, err := os.ReadFile(filepath.Join(root, "chat_template.jinja")); err == nil {
		return digest(data)
	}
	data, err := os.ReadFile(filepath.Join(root, "tokenizer_config.json"))
	var config struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if err != nil || json.Unmarshal(data, &config) != nil || len(config.Template) == 0 {
		return ""
	}
	var text string
	if json.Unmarshal(config.Template, &text) != nil {
		return digest(config.Template) // a list of named ones
	}
	return digest([]byte(text))
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// argument gives the value of a flag in "--flag value" or "--flag=value", under any of its names, the last of several. As to vLLM,
// an underscore in a name is a hyphen.
func argument(args []string, names ...string) string {
	value := ""
	for i, a := range args {
		name, joined, isJoined := strings.Cut(a, "=")
		switch {
		case !slices.Contains(names, hyphens(name)):
		case isJoined:
			value = joined
		case i+1 < len(args):
			value = args[i+1]
		}
	}
	return value
}

// hyphens writes the name of a flag as spool does.
func hyphens(flag string) string { return strings.ReplaceAll(flag, "_", "-") }

var (
	driverVersion = regexp.MustCompile(`Module\s.*?\s(\d+\.[\d.]+)\s`)
	gpuModel      = regexp.MustCompile(`(?m)^Model:\s*(.+?)\s*$`)
)

// nvidia reads what the driver tells in /proc/driver/nvidia: nothing without one.
func nvidia(root string) (driver string, gpus []string) {
	if data, err := os.ReadFile(filepath.Join(root, "version")); err == nil {
		if m := driverVersion.FindSubmatch(data); m != nil {
			driver = string(m[1])
		}
	}
	files, _ := filepath.Glob(filepath.Join(root, "gpus", "*", "information")) // the pattern is right
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if m := gpuModel.FindSubmatch(data); m != nil {
			gpus = append(gpus, string(bytes.TrimSpace(m[1])))
		}
	}
	return driver, gpus
}
