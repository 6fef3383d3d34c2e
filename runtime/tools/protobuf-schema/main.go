// Command protobuf-schema prints the field numbers of the Kubernetes kinds that clients may send as protobuf, for
// runtime/src/server/protobuf/schema.txt. It reads them from the struct tags of k8s.io/api by reflection:
//
//	go run . > ../../src/server/protobuf/schema.txt
package main

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	autoscaling "k8s.io/api/autoscaling/v1"
	batch "k8s.io/api/batch/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	events "k8s.io/api/events/v1"
	policy "k8s.io/api/policy/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storage "k8s.io/api/storage/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Types with a JSON form of their own.
var special = map[string]string{
	"resource.Quantity": "Q", "v1.Time": "T", "v1.MicroTime": "U", "intstr.IntOrString": "I",
	"v1.FieldsV1": "F", "runtime.RawExtension": "R", "v1.Duration": "D",
}

var roots = []any{
	apps.Deployment{}, apps.ReplicaSet{}, authentication.SelfSubjectReview{}, authorization.SelfSubjectAccessReview{},
	authorization.SelfSubjectRulesReview{}, autoscaling.Scale{}, batch.Job{}, coordination.Lease{}, core.Binding{},
	core.ConfigMap{}, core.Event{}, core.LimitRange{}, core.Namespace{}, core.Node{}, core.PersistentVolume{},
	core.PersistentVolumeClaim{}, core.Pod{}, core.ResourceQuota{}, core.Secret{}, core.Service{}, core.ServiceAccount{},
	events.Event{}, meta.DeleteOptions{}, policy.Eviction{}, scheduling.PriorityClass{}, storage.StorageClass{},
}

var messages = map[string]string{}

func name(t reflect.Type) string {
	parts := strings.Split(t.PkgPath(), "/")
	if len(parts) > 1 && strings.HasPrefix(parts[len(parts)-1], "v") {
		return parts[len(parts)-2] + "." + t.Name()
	}
	return parts[len(parts)-1] + "." + t.Name()
}

func kind(t reflect.Type) string {
	if code, ok := special[t.String()]; ok {
		return code
	}
	switch t.Kind() {
	case reflect.Ptr:
		return "*" + kind(t.Elem())
	case reflect.String:
		return "s"
	case reflect.Bool:
		return "b"
	case reflect.Int32, reflect.Int64, reflect.Int, reflect.Uint32, reflect.Uint64, reflect.Uint8:
		return "i"
	case reflect.Float64:
		return "f"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "y"
		}
		if t.Name() == "ExtraValue" {
			return "X"
		}
		return "[]" + kind(t.Elem())
	case reflect.Map:
		return "{}" + kind(t.Elem())
	case reflect.Struct:
		describe(t)
		return name(t)
	}
	panic("no code for " + t.String())
}

func describe(t reflect.Type) {
	if _, done := messages[name(t)]; done {
		return
	}
	messages[name(t)] = ""
	var fields []string
	for i := 0; i < t.NumField(); i++ {
		field := t.Field(i)
		tag := strings.Split(field.Tag.Get("protobuf"), ",")
		if len(tag) < 2 {
			continue
		}
		json := strings.Split(field.Tag.Get("json"), ",")
		code := kind(field.Type)
		switch {
		case json[0] == "":
			code = "^" + code
		case !strings.Contains(field.Tag.Get("json"), "omitempty"):
			code = "!" + code
		}
		fields = append(fields, fmt.Sprintf("%s=%s:%s", tag[1], json[0], code))
	}
	messages[name(t)] = strings.Join(fields, " ")
}

func main() {
	for _, root := range roots {
		describe(reflect.TypeOf(root))
	}
	names := make([]string, 0, len(messages))
	for name := range messages {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Println("# Field numbers of Kubernetes' own kinds, written by runtime/tools/protobuf-schema. MESSAGE NUMBER=NAME:TYPE …")
	for _, name := range names {
		fmt.Println(name, messages[name])
	}
}
