package infra_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"spool/localstack/localtest"
	"spool/storage/queue"
)

// TestReadmeCommandsSetUpAnAccount runs the commands of aws/README.md with the AWS CLI against moto, which refuses what is no
// valid policy or configuration, and reads back what they made.
func TestReadmeCommandsSetUpAnAccount(t *testing.T) {
	if testing.Short() {
		t.Skip("the AWS CLI takes its time")
	}
	need(t, "aws", "envsubst", "python3")
	env := append(os.Environ(), "MOTO="+localtest.Moto(t), "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test",
		"AWS_DEFAULT_REGION="+region, "AWS_PAGER=", "TMPDIR="+t.TempDir())
	sh := func(script string) string {
		t.Helper()
		// The AWS CLI 1 ignores AWS_ENDPOINT_URL for SQS in some regions, and would reach AWS.
		cmd := exec.Command("bash", "-euc", `aws() { command aws --endpoint-url "$MOTO" "$@"; }`+"\n"+script)
		cmd.Dir, cmd.Env = "..", env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	trust := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`
	sh("aws iam create-role --role-name spool-watcher --assume-role-policy-document '" + trust + "'\n" +
		"aws iam create-role --role-name spool-runner-default --assume-role-policy-document '" + trust + "'\n" +
		"aws iam create-group --group-name spool-users")
	readme, err := os.ReadFile("aws/README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("aws/README.md has no commands")
	}
	sh(string(block[1]))

	for _, name := range []string{queue.EventsQueue, queue.PoolQueue(pool), queue.FastQueue(pool), queue.DeadQueue(pool)} {
		sh("aws sqs get-queue-url --queue-name " + name)
	}
	var redrive struct {
		DeadLetterTargetARN string `json:"deadLetterTargetArn"`
	}
	text := sh("aws sqs get-queue-attributes --queue-url $(aws sqs get-queue-url --queue-name spool-default-fast --query QueueUrl --output text)" +
		" --attribute-names RedrivePolicy --query Attributes.RedrivePolicy --output text")
	if err := json.Unmarshal([]byte(text), &redrive); err != nil || redrive.DeadLetterTargetARN != queueARN(queue.DeadQueue(pool)) {
		t.Errorf("redrive policy %s, %v", text, err)
	}
	if n := sh("aws s3api get-bucket-notification-configuration --bucket my-bucket"); !strings.Contains(n, queueARN(queue.EventsQueue)) {
		t.Errorf("notifications: %s", n)
	}
	if p := sh("aws iam get-role-policy --role-name spool-runner-default --policy-name spool"); !strings.Contains(p, "arn:aws:s3:::my-bucket/sys/v1/b/*") {
		t.Errorf("policy of the runner: %s", p)
	}
}

// need skips the test if a program is not installed, unless all are required.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("SPOOL_REQUIRE_ALL") == "1" {
			t.Fatalf("SPOOL_REQUIRE_ALL=1: %s is not installed", p)
		}
		t.Skipf("%s is not installed", p)
	}
}
